"""When an engine is in a bubble: one state machine per engine. Pure; time comes with the signals.

    BLOCKED <--> BUSY --> ARMING --> OPEN
                  ^---------+---------+

* Opens slowly, closes at once, fails closed: without fresh signals nothing is open.
* Only policy work counts as load, else run-ahead would close its own bubble.
* Two types: ``train`` (the step's rollouts are delivered, the trainer works) and ``long_tail`` (all
  rollouts of the phase are in engines and this one is mostly empty). A bubble may pass from a tail
  into training without closing.
* It opens only when it is likely to last: the lower quartile of what remained of the last idle
  windows of its kind, counted from where this one is, must reach ``minRemainingSeconds``.
* Where a job names sources of GPU utilisation, they may veto it or hold it up (`gpu_votes`).

Source: SRT, arXiv 2601.09083; thresholds and signals: docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from srt_common.coordination import Phase
from srt_operator.resources import BubbleSpec
from srt_operator.runahead.gpu_votes import Vote, vote, voters
from srt_operator.signals.base import GPUReading

TRAINER_PHASES: Final[frozenset[Phase]] = frozenset({"reward", "train", "checkpoint"})
"""Engines have nothing to do."""
SAMPLING_PHASES: Final[frozenset[Phase]] = frozenset({"rollout", "eval"})
"""Engines sample for the trainer; what is left of it is a tail."""

MAX_LOAD_AGE_SECONDS: Final = 3.0
MAX_PHASE_AGE_SECONDS: Final = 10.0
MAX_KV_CACHE_USAGE: Final = 0.9
MIN_ARMING_SAMPLES: Final = 3
MAX_HISTORY: Final = 20


class BubbleState(StrEnum):
    """Where an engine stands."""

    BLOCKED = "blocked"
    """Its signals are missing or stale, or it must not be used now."""
    BUSY = "busy"
    ARMING = "arming"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What is known of one engine and of the trainer at one instant."""

    now: float
    """Seconds, monotonic."""
    phase: Phase | None
    """None: the trainer has not said."""
    phase_age_seconds: float = 0.0
    step: int = 0
    num_pending: int = 0
    """Rollouts of the phase that no engine has been given yet."""
    load_age_seconds: float = 0.0
    """Infinite when the engine does not answer."""
    max_num_seqs: int = 1
    num_running_policy: int = 0
    num_waiting_policy: int = 0
    num_running_run_ahead: int = 0
    kv_cache_usage: float = 0.0
    is_unavailable: bool = False
    """Paused for new weights, or draining."""
    gpus: Mapping[str, GPUReading] = field(default_factory=dict)
    """By source; empty: none is asked, or none has data."""

    @property
    def is_load_known(self) -> bool:
        """Whether the engine answered lately."""
        return self.load_age_seconds <= MAX_LOAD_AGE_SECONDS

    @property
    def is_heard(self) -> bool:
        """Whether engine and trainer both said something lately."""
        is_phase_known = self.phase is not None and self.phase_age_seconds <= MAX_PHASE_AGE_SECONDS
        return self.is_load_known and is_phase_known

    @property
    def has_work(self) -> bool:
        """Whether the engine has requests, of whichever lane; one that is silent may have some."""
        counts = (self.num_running_policy, self.num_waiting_policy, self.num_running_run_ahead)
        return any(counts) or not self.is_load_known

    @property
    def utilization(self) -> float:
        """Share of slots with policy rollouts."""
        return self.num_running_policy / self.max_num_seqs


@dataclass(frozen=True, slots=True)
class IdleWindow:
    """A stretch of time in which an engine has little or nothing to do for the trainer."""

    kind: str
    """``train``, or the sampling phase whose tail it is: windows of a kind resemble each other."""
    started_at: float

    @property
    def bubble_type(self) -> str:
        """``train`` or ``long_tail``."""
        return self.kind if self.kind == "train" else "long_tail"


@dataclass(frozen=True, slots=True)
class Detector:
    """State machine of one engine; `advance` makes the next one."""

    state: BubbleState = BubbleState.BLOCKED
    since: float = 0.0
    """When ``state`` was entered."""
    reason: str = "no signal yet"
    """Why it is not open, for people."""
    num_samples: int = 0
    """Signals seen in this state."""
    num_transitions: int = 0
    window: IdleWindow | None = None
    closed_at: float | None = None
    """When a bubble last closed."""
    first_step: int | None = None
    idle_since: float | None = None
    """When the engine was first seen without work, of those times that last; None: it has some."""
    votes: Mapping[str, Vote] = field(default_factory=dict)
    """What each source of GPU utilisation said last."""
    durations: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of the last `MAX_HISTORY` idle windows of each kind, oldest first."""


def advance(detector: Detector, signal: Signal, limits: BubbleSpec) -> Detector:
    """The state machine after one more signal; signals come in the order of time."""
    detector = _with_votes(_with_window(detector, signal, limits), signal)
    if detector.first_step is None and signal.phase is not None:
        detector = replace(detector, first_step=signal.step)
    if reason := _blocked_by(detector, signal):
        return _enter(detector, BubbleState.BLOCKED, signal.now, reason)
    if reason := _busy_with(detector, signal, limits):
        return _enter(detector, BubbleState.BUSY, signal.now, reason)
    if detector.state is BubbleState.BLOCKED:
        return _enter(detector, BubbleState.BUSY, signal.now, "just unblocked")
    if detector.state is BubbleState.BUSY:
        return _enter(detector, BubbleState.ARMING, signal.now, "just idle")
    if detector.state is BubbleState.ARMING and _may_open(detector, signal, limits):
        return _enter(detector, BubbleState.OPEN, signal.now, "")
    return replace(detector, num_samples=detector.num_samples + 1)


def remaining_seconds(durations: Sequence[float], elapsed: float) -> float:
    """What is left, with 75 % likelihood, of a window that has lasted ``elapsed`` seconds.

    Lower quartile over earlier windows that lasted longer; 0 when none did.
    """
    rest = sorted(duration - elapsed for duration in durations if duration > elapsed)
    return rest[(len(rest) - 1) // 4] if rest else 0.0


def _with_window(detector: Detector, signal: Signal, limits: BubbleSpec) -> Detector:
    """Begin, keep or end the idle window that the signal lies in."""
    kind = _idle_kind(detector, signal, limits)
    window = detector.window
    if window is not None and window.kind == kind:
        return detector
    durations = dict(detector.durations)
    if window is not None:
        lasted = signal.now - window.started_at
        durations[window.kind] = (*durations.get(window.kind, ()), lasted)[-MAX_HISTORY:]
    begun = None if kind is None else IdleWindow(kind, signal.now)
    return replace(detector, window=begun, durations=durations)


def _with_votes(detector: Detector, signal: Signal) -> Detector:
    idle_since: float | None = None
    if not signal.has_work:
        idle_since = signal.now if detector.idle_since is None else detector.idle_since
    votes = {
        source: vote(reading, now=signal.now, idle_since=idle_since)
        for source, reading in signal.gpus.items()
    }
    return replace(detector, idle_since=idle_since, votes=votes)


def _idle_kind(detector: Detector, signal: Signal, limits: BubbleSpec) -> str | None:
    """Kind of the idle window at this signal; a tail ends only when load is back for certain."""
    if signal.phase in TRAINER_PHASES:
        return "train"
    if signal.phase not in SAMPLING_PHASES or signal.num_pending > 0:
        return None
    is_in_tail = detector.window is not None and detector.window.kind == signal.phase
    threshold = limits.close_above if is_in_tail else limits.open_below
    return signal.phase if signal.utilization < threshold else None


def _blocked_by(detector: Detector, signal: Signal) -> str:
    """Why the engine must not be used; empty when it may."""
    if not signal.is_load_known:
        return "no load from the engine"
    if not signal.is_heard:
        return "no phase from the trainer"
    if signal.phase in ("weight_sync", "finished"):
        return f"phase {signal.phase}"
    if signal.is_unavailable:
        return "engine paused or draining"
    vetoing = voters(detector.votes, Vote.BUSY)
    return f"others use the GPU, says {vetoing[0]}" if vetoing else ""


def _busy_with(detector: Detector, signal: Signal, limits: BubbleSpec) -> str:
    """Why there is no bubble; empty when there may be one."""
    if signal.num_waiting_policy > 0:
        return "policy rollouts wait"
    if signal.utilization >= limits.close_above:
        return "policy rollouts run"
    if signal.kv_cache_usage >= MAX_KV_CACHE_USAGE:
        return "KV cache is full"
    window = detector.window
    if window is None:
        return "rollouts to come"
    durations = sorted(detector.durations.get(window.kind, ()))
    longest = durations[(19 * (len(durations) - 1)) // 20] if durations else None
    if longest is not None and signal.now - window.started_at >= longest:
        return "it has lasted as long as such windows do"
    return ""


def _may_open(detector: Detector, signal: Signal, limits: BubbleSpec) -> bool:
    window = detector.window
    if window is None or detector.first_step is None or voters(detector.votes, Vote.AWAITED):
        return False
    has_learnt = signal.step - detector.first_step >= limits.learn_steps
    is_held = signal.now - detector.since >= limits.open_after_seconds
    is_sampled = detector.num_samples + 1 >= MIN_ARMING_SAMPLES
    has_rested = (
        detector.closed_at is None or signal.now - detector.closed_at >= limits.cooldown_seconds
    )
    history = detector.durations.get(window.kind, ())
    left = remaining_seconds(history, signal.now - window.started_at)
    is_long = left >= limits.min_remaining_seconds
    return has_learnt and is_held and is_sampled and has_rested and is_long


def _enter(detector: Detector, state: BubbleState, now: float, reason: str) -> Detector:
    if detector.state is state:
        return replace(detector, reason=reason, num_samples=detector.num_samples + 1)
    has_closed = detector.state is BubbleState.OPEN
    return replace(
        detector,
        state=state,
        since=now,
        reason=reason,
        num_samples=1,
        num_transitions=detector.num_transitions + 1,
        closed_at=now if has_closed else detector.closed_at,
    )
