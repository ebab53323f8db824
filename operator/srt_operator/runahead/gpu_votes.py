"""What GPU utilisation says about a bubble of an engine: it may veto one, never make one. Pure.

* Load and phases decide. A source that is silent or old abstains; it never reads as idle.
* A GPU that computes although its engine has had nothing to do works for somebody else: a veto.
* While the engine has work, run-ahead included, its own work explains a busy GPU: no vote. One
  long rollout reads as 100 %, so the tail of a phase is the load's to see.
* A sample from before the engine fell idle is waited out: a bubble opens with the next one, or when
  the source has grown old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, TypeGuard

from srt_operator.signals.base import GPUReading

MAX_GPU_AGE_SECONDS: Final = 10.0
"""Older samples say nothing: a scrape every 5 s, and one that is late."""
SAMPLED_SECONDS: Final = 2.0
"""What a sample may tell of: NVML's window of 1 s, read by an exporter 1 s before the scrape."""
MIN_BUSY_UTILIZATION: Final = 0.1


class Vote(StrEnum):
    """Of one source, on one engine."""

    ABSTAINS = "abstains"
    IDLE = "idle"
    """Confirms that the engine's GPUs are free."""
    AWAITED = "awaited"
    """Its next sample will tell."""
    BUSY = "busy"
    """Somebody else uses them."""


def vote(reading: GPUReading | None, *, now: float, idle_since: float | None) -> Vote:
    """What a reading says. ``idle_since``: when the engine's last request ended; None: it has some.

    Times are monotonic seconds.
    """
    if not is_fresh(reading, now=now):
        return Vote.ABSTAINS
    if reading.utilization < MIN_BUSY_UTILIZATION:
        return Vote.IDLE
    if idle_since is None:
        return Vote.ABSTAINS
    if reading.sampled_at - SAMPLED_SECONDS < idle_since:
        return Vote.AWAITED
    return Vote.BUSY


def voters(votes: Mapping[str, Vote], wanted: Vote) -> tuple[str, ...]:
    """Sources that voted so."""
    return tuple(source for source, given in votes.items() if given is wanted)


def is_fresh(reading: GPUReading | None, *, now: float) -> TypeGuard[GPUReading]:
    """Whether there is a reading that still says something."""
    return reading is not None and now - reading.sampled_at <= MAX_GPU_AGE_SECONDS


def mean_utilization(readings: Iterable[GPUReading], *, now: float) -> float | None:
    """Over readings that are fresh; None: there is none."""
    fresh = [reading.utilization for reading in readings if is_fresh(reading, now=now)]
    return sum(fresh) / len(fresh) if fresh else None
