"""The meters of each role as one typed object, made from a ``Meter`` of the OpenTelemetry API.

* Make one object per process: an instrument made twice is one stream that two owners write.
* None of these belongs on a decoding step: steps count in plain integers, a rollout's end records.
* Attributes have few values, engines at most; job, prompt and rollout are attributes of spans only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Self

from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation
from opentelemetry.metrics import _Gauge as Gauge

from srt_common.telemetry import names

DURATION_BUCKETS_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

_Named = tuple[str, str]


@dataclass(frozen=True, slots=True)
class DraftInstruments:
    """What drafting gained: recorded when a rollout ends. Engine."""

    lookups: Counter
    """By ``srt.cache.result``: hit or miss."""
    draft_tokens: Counter
    accepted_tokens: Counter
    """By ``srt.draft.source``."""
    steps: Counter
    skipped: Counter
    """Steps without a draft after an error, by ``error.type``."""

    @classmethod
    def of(cls, meter: Meter) -> Self:
        """Make them."""
        return cls(
            lookups=_counter(meter, names.METRIC_CACHE_LOOKUPS),
            draft_tokens=_counter(meter, names.METRIC_DRAFT_TOKENS),
            accepted_tokens=_counter(meter, names.METRIC_ACCEPTED_TOKENS),
            steps=_counter(meter, names.METRIC_DRAFT_STEPS),
            skipped=_trouble(meter, names.METRIC_DRAFT_SKIPPED),
        )


@dataclass(frozen=True, slots=True)
class StoreInstruments:
    """How the shared log does. Every user of a tree store."""

    append_duration: Histogram
    errors: Counter
    """Calls that failed, by ``error.type``."""
    rejected: Counter
    """Log entries that were no messages of ours."""
    dropped: Counter
    """Tokens that were never published because the store was away for too long."""

    @classmethod
    def of(cls, meter: Meter) -> Self:
        """Make them."""
        return cls(
            append_duration=_duration(meter, names.METRIC_LOG_APPEND_DURATION),
            errors=_trouble(meter, names.METRIC_STORE_ERRORS),
            rejected=_trouble(meter, names.METRIC_LOG_REJECTED),
            dropped=_trouble(meter, names.METRIC_LOG_DROPPED),
        )


@dataclass(frozen=True, slots=True)
class CompactionInstruments:
    """What a tree cache replica does for the shards it owns."""

    snapshots: Counter
    trims: Counter
    evicted_prompts: Counter
    leases_lost: Counter

    @classmethod
    def of(cls, meter: Meter) -> Self:
        """Make them."""
        return cls(
            snapshots=_counter(meter, names.METRIC_CACHE_SNAPSHOTS),
            trims=_counter(meter, names.METRIC_CACHE_TRIMS),
            evicted_prompts=_counter(meter, names.METRIC_CACHE_EVICTED_PROMPTS),
            leases_lost=_trouble(meter, names.METRIC_CACHE_LEASES_LOST),
        )


@dataclass(frozen=True, slots=True)
class RolloutInstruments:
    """Requests and optimizer steps as their client sees them. Trainer."""

    rollout_duration: Histogram
    """By ``srt.lane``."""
    step_duration: Histogram
    """By ``srt.phase``."""

    @classmethod
    def of(cls, meter: Meter) -> Self:
        """Make them."""
        return cls(
            rollout_duration=_duration(meter, names.METRIC_ROLLOUT_DURATION),
            step_duration=_duration(meter, names.METRIC_STEP_DURATION),
        )


@dataclass(frozen=True, slots=True)
class RunaheadInstruments:
    """What became of run-ahead chunks. Run-ahead worker."""

    tasks: Counter
    """By ``srt.runahead.result``."""
    tokens: Counter
    abort_duration: Histogram
    dead_letters: Counter

    @classmethod
    def of(cls, meter: Meter) -> Self:
        """Make them."""
        return cls(
            tasks=_counter(meter, names.METRIC_RUNAHEAD_TASKS),
            tokens=_counter(meter, names.METRIC_RUNAHEAD_TOKENS),
            abort_duration=_duration(meter, names.METRIC_RUNAHEAD_ABORT_DURATION),
            dead_letters=_trouble(meter, names.METRIC_RUNAHEAD_DEAD_LETTERS),
        )


@dataclass(frozen=True, slots=True)
class BubbleInstruments:
    """Unused decoding capacity, and what tells of it. Operator."""

    duration: Histogram
    """By ``srt.bubble.type``."""
    gpu_utilization: Gauge
    """By ``srt.engine.name`` and ``srt.gpu.source``."""

    @classmethod
    def of(cls, meter: Meter) -> Self:
        """Make them."""
        name, unit = names.METRIC_GPU_UTILIZATION
        return cls(
            duration=_duration(meter, names.METRIC_BUBBLE_DURATION),
            gpu_utilization=meter.create_gauge(name, unit=unit),
        )


def observe(meter: Meter, metric: tuple[str, str], read: Callable[[], float]) -> None:
    """Report ``read()`` as a gauge at every collection; called from the exporter's thread."""

    def callback(_options: CallbackOptions) -> Iterable[Observation]:
        return (Observation(read()),)

    name, unit = metric
    meter.create_observable_gauge(name, callbacks=(callback,), unit=unit)


def _counter(meter: Meter, metric: _Named) -> Counter:
    name, unit = metric
    return meter.create_counter(name, unit=unit)


def _trouble(meter: Meter, metric: _Named) -> Counter:
    """A counter that is there before it counts: of one that appears with its first count, no rate
    shows that count, and a dashboard cannot tell "none" from "not reported".
    """
    counter = _counter(meter, metric)
    counter.add(0)
    return counter


def _duration(meter: Meter, metric: _Named) -> Histogram:
    name, unit = metric
    return meter.create_histogram(
        name, unit=unit, explicit_bucket_boundaries_advisory=DURATION_BUCKETS_SECONDS
    )
