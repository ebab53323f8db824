"""NVML where there is none, and where there is."""

from __future__ import annotations

import pynvml
import pytest

from srt_rollout.gpus import GPUs


def has_gpu() -> bool:
    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return False


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
@pytest.mark.parametrize("visible", [None, "0", "GPU-6bf47ca9-ad3e-15db-beed-1079a7d74116"])
def test_a_machine_without_a_gpu_is_a_source_without_data(visible: str | None) -> None:
    assert GPUs(visible).utilization() is None


@pytest.mark.skipif(not has_gpu(), reason="no GPU here")
def test_a_gpu_is_between_idle_and_busy() -> None:
    utilization = GPUs(None).utilization()
    assert utilization is not None
    assert 0.0 <= utilization <= 1.0


def test_an_engine_that_sees_no_gpu_has_no_data() -> None:
    assert GPUs("").utilization() is None
