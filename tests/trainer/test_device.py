from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.device import _cgroup_cpus, cpu_limit, limit_threads, pick_arithmetic, pick_device
from trainer.errors import TrainerError


def test_a_device_that_is_not_there_is_named():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(TrainerError, match="'cuda:99'"):
        pick_device("cuda:99")


@pytest.mark.parametrize(
    ("file", "text", "cpus"),
    [("cpu.max", "150000 100000\n", 1.5), ("cpu.max", "max 100000\n", None), ("none", "", None)],
)
def test_the_limit_of_the_container(tmp_path: Path, file: str, text: str, cpus: float | None):
    (tmp_path / file).write_text(text)
    assert _cgroup_cpus(tmp_path) == cpus


def test_the_limit_of_an_older_container(tmp_path: Path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert _cgroup_cpus(tmp_path) == 2
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert _cgroup_cpus(tmp_path) is None


def test_threads_are_never_raised():
    before = torch.get_num_threads()
    assert 1 <= limit_threads() <= before
    torch.set_num_threads(before)


def test_a_container_may_use_less_than_the_machine_has(monkeypatch: pytest.MonkeyPatch):
    cores = cpu_limit()
    for quota, wanted in [(None, cores), (0.3, 1), (1.0, 1), (cores + 5.0, cores)]:
        monkeypatch.setattr("trainer.device._cgroup_cpus", lambda quota=quota: quota)
        assert cpu_limit() == wanted


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


def test_waiting_threads_sleep():
    # What OpenMP says that it has read, and not what the environment says by then.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    code = "import trainer; trainer.load"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "OMP_DISPLAY_ENV": "true"},
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("torch has another OpenMP here")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
