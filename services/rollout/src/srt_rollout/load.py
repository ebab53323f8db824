"""How busy the engine is: lane counts of the gateway, two gauges of vLLM's own ``/metrics``, NVML.

* Counts are exact at the moment of the answer; gauges are at most some seconds old, because
  reading vLLM's metrics text costs the engine's front end tens of milliseconds, and a driver may
  take its time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from srt_common.clock import Clock
from srt_common.errors import EngineError

_SAMPLE = re.compile(r"^(vllm:[a-z_]+)(?:\{[^}]*\})?\s+(\S+)")
_PREEMPTIONS = "vllm:num_preemptions_total"
_KV_CACHE_USAGE = "vllm:kv_cache_usage_perc"


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """What only vLLM knows."""

    num_preemptions: int = 0
    kv_cache_usage: float = 0.0
    """0..1, the largest of all engine processes."""


@dataclass(frozen=True, slots=True)
class GPUGauge:
    """What NVML said."""

    utilization: float | None
    """0..1, of the busiest GPU; None: no data."""
    asked_at: float
    """Seconds, monotonic."""


def parse_gauges(text: str) -> EngineGauges:
    """Read a Prometheus exposition; what is absent counts as 0."""
    values: dict[str, list[float]] = {_PREEMPTIONS: [], _KV_CACHE_USAGE: []}
    for line in text.splitlines():
        if (sample := _SAMPLE.match(line)) and sample[1] in values:
            values[sample[1]].append(float(sample[2]))
    return EngineGauges(
        num_preemptions=int(sum(values[_PREEMPTIONS])),
        kv_cache_usage=max(values[_KV_CACHE_USAGE], default=0.0),
    )


Gauges = TypeVar("Gauges")


class GaugeReader(Generic[Gauges]):
    """The last gauges read, refreshed behind the caller's back when they are old."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Gauges]],
        first: Gauges,
        *,
        max_age_seconds: float,
        clock: Clock,
    ) -> None:
        """``first``: what counts until something was read."""
        self._read = read
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._gauges = first
        self._read_at = float("-inf")
        self._refresh: asyncio.Task[None] | None = None

    def latest(self) -> Gauges:
        """At once what was read last; starts a refresh when that is older than allowed."""
        is_old = self._clock.monotonic() - self._read_at > self._max_age_seconds
        if is_old and (self._refresh is None or self._refresh.done()):
            self._refresh = asyncio.create_task(self.refresh())
        return self._gauges

    async def refresh(self) -> None:
        """Read now. An engine that does not answer leaves the old gauges standing."""
        self._read_at = self._clock.monotonic()
        try:
            self._gauges = await self._read()
        except EngineError:
            return
