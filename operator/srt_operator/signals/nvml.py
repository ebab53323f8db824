"""GPU utilisation as each rollout pod reads it from NVML: of its own GPUs, told with its load."""

from __future__ import annotations

from collections.abc import Mapping

from srt_operator.signals.base import GPUReading
from srt_operator.signals.rollout_pods import RolloutPods


class NVML:
    """The readings that came with the last load. A pod without a GPU has none."""

    name = "NVML"

    def __init__(self, pods: RolloutPods) -> None:
        self._pods = pods

    async def read(self) -> Mapping[str, GPUReading]:
        """See `GPUSource`."""
        return {
            engine: GPUReading(load.gpu_utilization, reading.read_at - load.gpu_age_seconds)
            for engine, reading in self._pods.last().items()
            if (load := reading.load).gpu_utilization is not None
        }
