"""How busy the pod's own GPUs are, by NVML. A machine without NVML or GPUs is one without data.

* NVML knows nothing of ``CUDA_VISIBLE_DEVICES``; what the engine is kept from is not looked at.
* Its value is the share of a window of up to 1 s in which a kernel ran, for whichever process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pynvml


class GPUs:
    """Open NVML once and ask it often. Thread-safe, as NVML is."""

    def __init__(self, visible: str | None) -> None:
        """``visible``: of ``CUDA_VISIBLE_DEVICES``; None: all that NVML shows."""
        self._handles = _handles(visible)

    def utilization(self) -> float | None:
        """0..1, of the busiest one; None: none of them tells, as in MIG mode."""
        rates = [rate for handle in self._handles if (rate := _rate(handle)) is not None]
        return max(rates, default=None)


def _handles(visible: str | None) -> Sequence[Any]:
    try:
        pynvml.nvmlInit()
        if visible is None:
            return [
                pynvml.nvmlDeviceGetHandleByIndex(index)
                for index in range(pynvml.nvmlDeviceGetCount())
            ]
        return [_named(name.strip()) for name in visible.split(",") if name.strip()]
    except pynvml.NVMLError:
        return []


def _named(name: str) -> Any:
    """By index or UUID. Raises NVMLError."""
    if name.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)


def _rate(handle: Any) -> float | None:
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except pynvml.NVMLError:
        return None
