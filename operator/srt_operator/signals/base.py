"""What a source of load readings promises."""

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
