"""What a source of signals promises: the load of engines, or how busy their GPUs are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from srt_common.messages.rollouts import EngineLoad


@dataclass(frozen=True, slots=True)
class LoadReading:
    """The last answer of one engine."""

    load: EngineLoad
    read_at: float
    """Seconds, monotonic."""


class LoadSource(Protocol):
    """Reads the load of a job's engines."""

    async def read(self) -> Mapping[str, LoadReading]:
        """Last readings by engine, however old; an engine never heard of is absent."""
        ...


@dataclass(frozen=True, slots=True)
class GPUReading:
    """How busy the GPUs of one engine were."""

    utilization: float
    """0..1, of the busiest one: the share of a short time in which it computed, for whomever."""
    sampled_at: float
    """Seconds, monotonic; the end of that time."""


class GPUSource(Protocol):
    """Knows how busy the GPUs of a job's engines are."""

    @property
    def name(self) -> str:
        """As in ``runAhead.bubble.sources``."""
        ...

    async def read(self) -> Mapping[str, GPUReading]:
        """Last readings by engine, however old; an engine without data is absent. Does not wait."""
        ...
