from __future__ import annotations

import pytest
import torch

from trainer.training.train_state import _random_state, _set_random_state


def test_the_generator_of_the_run_s_own_gpu_is_saved(monkeypatch: pytest.MonkeyPatch):
    # Stands for two GPUs, of which the first is torch's current one.
    gpus = {index: torch.full((16,), index, dtype=torch.uint8) for index in (0, 1)}

    def index_of(device: torch.device | str) -> int:
        return torch.device(device).index or 0

    def put(state: torch.Tensor, device: torch.device | str = "cuda") -> None:
        gpus[index_of(device)] = state

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device="cuda": gpus[index_of(device)].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", put)
    own = torch.device("cuda", 1)
    saved = _random_state(own)
    drawn = torch.rand(3)
    gpus[1] = torch.zeros(16, dtype=torch.uint8)
    _set_random_state(saved, own)
    assert [state[0].item() for state in gpus.values()] == [0, 1]
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.gpu
def test_a_gpu_draws_the_same_numbers_again():
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    saved = _random_state(device)
    drawn = torch.rand(3, device=device)
    _set_random_state(saved, device)
    assert torch.equal(torch.rand(3, device=device), drawn)
