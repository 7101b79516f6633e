from __future__ import annotations

import pytest
import torch

from trainer.errors import TrainerError
from trainer.precision import pick_arithmetic

CPU = torch.device("cpu")


def test_a_cpu_computes_in_fp32_unless_asked():
    assert pick_arithmetic("auto", CPU).name == "fp32"
    assert pick_arithmetic("bf16", CPU).name == "bf16"


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_it(name, dtype):
    with pick_arithmetic(name, CPU).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(TrainerError, match="precision 'fp16' needs a GPU; set precision to"):
        pick_arithmetic("fp16", CPU)


@pytest.mark.gpu
def test_a_gpu_computes_in_half_precision():
    device = torch.device("cuda", 0)
    arithmetic = pick_arithmetic("auto", device)
    assert arithmetic.name in ("bf16", "fp16")
    assert arithmetic.scaler().is_enabled() is (arithmetic.name == "fp16")
