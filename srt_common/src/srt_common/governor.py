"""How many draft tokens the next engine step verifies. Pure: no clock, no engine.

Every position of every draft has a survival s: the calibrated chance that its draft is accepted up
to and including it. Positions are taken in order of s while ``s > c1 * rate``, where rate =
(rows + sum of taken s) / t(n) is what the batch yields per second so far; that maximises expected
tokens per second under t(n) = c0 + c1 * n (`step_time`). Drafts get short in large batches and
long for stragglers.

    plan (draft at all? how far?) -> the forest drafts -> choose (cut) -> ... -> observe (the step)

Probes keep the fit honest: of every 256 steps eight in a row are undrafted, and one is drafted for
longer than seems to pay. While drafting hardly pays, leaving it costs next to nothing, and there
are four times as many undrafted ones. Eight, as an engine needs two to cost what one that never
drafts does: in the first it verifies the last drafts, in the second it still samples as if it had
some. When drafted steps yield fewer tokens per second than undrafted ones would, drafting turns off
for a while and is tried again.

Why cutting leaves the distribution of what is sampled alone (design 5.3): a position may be dropped
by anything but its own token.

* s at a position comes from the tokens before it and from its q, before its token is drawn.
* Along a draft s does not rise and ties keep the draft's order, so whatever depends on a position's
  token (the survivals after it) comes later in the order of taking. `choose` decides a position
  from those earlier in that order alone. It must not look at the whole, say at the total yield.
  What it took from other rows depends on their tokens, which are drawn independently.
* `plan` and the fit depend on earlier steps only: step times, accepted counts, thresholds. Their
  drafts are verified or dropped for good by then, and the next ones are drawn afresh. Time spent
  on the running draft is not known before it has been verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from srt_common.step_time import StepCost, StepSample, StepTime

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]

_PROBE_EVERY = 256
_PROBE_EVERY_IN_DOUBT = 64
_CLEAR_GAIN = 1.1
"""From which drafting clearly pays."""
_NUM_UNDRAFTED_PROBES = 8
"""In a row; a long one follows, of every `_PROBE_EVERY` steps."""
_MIN_LONG_PROBE = 8
_LOWEST_SURVIVAL = 0.02
_SLACK = 0.8
"""Drafts are made down to this part of the last threshold: it may have fallen."""
_GAIN_STEPS = 64
"""Memory of the gain, in steps."""
_MIN_GAIN_STEPS = 3
_GAIN_DOUBT = 1.6
"""A gain over k steps is taken for a loss below 1 - doubt / k."""
_REMEMBERED_LOSS = 4
"""Steps for which a loss counts when drafting is tried again, so that fewer new ones tell it."""
_MIN_NEW_STEPS = 2
_TRUST_PRIOR = 0.5
"""Tokens per row that survivals are right about, to begin with."""
_SHORTEST_PAUSE = 64
_LONGEST_PAUSE = 512
_PAUSED_PER_SAMPLE = 4
"""An engine that is not to draft is not to spend its time on measuring either."""


class _Kind(Enum):
    UNDRAFTED = 0
    """A probe."""
    LONG = 1
    """Another."""
    GOVERNED = 2
    PAUSED = 3
    """Undrafted because drafting did not pay."""

    @property
    def is_drafted(self) -> bool:
        return self in (_Kind.LONG, _Kind.GOVERNED)


_GOVERNED = [_Kind.GOVERNED, _Kind.GOVERNED]
_PAUSED = [_Kind.PAUSED, _Kind.PAUSED]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the forest is to draft for the next step."""

    is_drafting: bool
    min_survival: float
    """No position below it would be taken."""


UNDRAFTED = Plan(is_drafting=False, min_survival=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """One step of an engine that was busy before and after it."""

    num_rows: int
    """Requests that sampled, at least 1."""
    num_draft_tokens: int
    """Verified in this step."""
    num_prompt_tokens: int
    """Scheduled beside them."""
    num_emitted: int
    """Tokens the rows sampled, at least one each."""
    seconds: float
    """From the start of this step to the start of the next."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """What the next step is to verify."""

    num_draft_tokens: int
    num_expected: float
    """Accepted tokens that survivals promise."""


_NOTHING = _Choice(0, 0.0)


@dataclass(frozen=True, slots=True)
class GovernorStats:
    """What the governor did and believes."""

    num_probe_steps: int
    num_off_steps: int
    is_off: bool
    gain: float
    """Tokens per second against undrafted decoding, over recent drafted steps; 1 when unknown."""
    base_seconds: float
    per_token_seconds: float
    num_cut_tokens: int
    """Positions that were drafted and not kept."""


class Governor:
    """The decisions of one engine. Not thread-safe: for the engine's thread."""

    def __init__(self, initial: StepCost | None = None) -> None:
        self._step_time = StepTime() if initial is None else StepTime(initial)
        self._cost = self._step_time.cost
        self._threshold = 0.0
        self._at = 0
        self._until_long = 0
        self._kinds = (_Kind.UNDRAFTED,) * 3
        """Of the last plans, newest last."""
        self._num_unheard = 0
        self._gain = _Gain()
        self._trust = _Trust()
        self._choice = self._choice_before = _NOTHING
        self._pause_left = 0
        self._pause = _SHORTEST_PAUSE
        self._num_probe_steps = 0
        self._num_off_steps = 0
        self._num_cut_tokens = 0

    def plan(self, num_rows: int) -> Plan:
        """Decide about the next step of ``num_rows`` rows; call once a step, `choose` after it."""
        kind = self._next_kind()
        self._num_unheard += 1
        self._kinds = (*self._kinds[1:], kind)
        self._choice_before, self._choice = self._choice, _NOTHING
        if not kind.is_drafted:
            return UNDRAFTED
        floor = _LOWEST_SURVIVAL
        if kind is _Kind.GOVERNED:
            least = self._cost.per_token * num_rows / self._drafted_seconds(num_rows)
            floor = max(floor, least / self._trust.value, _SLACK * self._threshold)
        return Plan(is_drafting=True, min_survival=min(floor, 1.0))

    def choose(self, survival: FloatArray, offsets: IntArray) -> IntArray:
        """How many positions of each draft to keep.

        Args:
            survival: [N] of all positions, row after row; does not rise along a row.
            offsets: [B+1] row i owns positions offsets[i]..offsets[i+1].

        Returns:
            [B] lengths.
        """
        num_rows = len(offsets) - 1
        per_token, seconds = self._cost.per_token, self._drafted_seconds(num_rows)
        if self._kinds[-1] is _Kind.LONG:
            num_taken = int(max(_MIN_LONG_PROBE, num_rows / 2, min(seconds / per_token, 1e6)))
            lengths, num_expected = _lengths(_by_survival(survival)[:num_taken], offsets), 0.0
        else:
            trusted = survival * np.float32(self._trust.value)
            taken = take(trusted, offsets, seconds=seconds, per_token=per_token)
            self._threshold = taken.threshold / self._trust.value
            lengths, num_expected = taken.lengths, taken.num_expected / self._trust.value
        self._choice = _Choice(int(lengths.sum()), num_expected)
        self._num_cut_tokens += len(survival) - self._choice.num_draft_tokens
        return lengths

    @property
    def is_paused(self) -> bool:
        """Whether the next `plan` is one of those undrafted because drafting did not pay."""
        return self._pause_left > 0

    @property
    def is_listening(self) -> bool:
        """Whether the step before the last `plan` would tell anything."""
        before, *kinds = self._kinds
        if before.is_drafted and not (kinds[0].is_drafted or kinds[1].is_drafted):
            return False  # neither drafted nor yet what an undrafted step costs
        return kinds != _PAUSED or self._num_unheard >= _PAUSED_PER_SAMPLE

    def observe(self, step: MeasuredStep) -> None:
        """Learn from the step before the last `plan`, which is over now."""
        if not self.is_listening:
            return
        kinds = list(self._kinds[1:])
        is_drafted = [kind.is_drafted for kind in kinds]
        sample = StepSample(
            num_rows=step.num_rows,
            num_draft_tokens=step.num_draft_tokens,
            num_prompt_tokens=step.num_prompt_tokens,
            drafting=sum(is_drafted) / 2,
            seconds=step.seconds,
            num_steps=self._num_unheard,
            is_usual=_Kind.LONG not in kinds,
        )
        self._num_unheard = 0
        seconds = self._step_time.observe(sample)
        self._cost = self._step_time.cost
        if step.num_draft_tokens != self._choice_before.num_draft_tokens:
            return  # requests were aborted, preempted or cut short: their drafts prove nothing
        if kinds[0] is _Kind.GOVERNED and kinds[1] is not _Kind.PAUSED:
            num_accepted = step.num_emitted - step.num_rows
            promised = self._choice_before.num_expected
            self._trust.add(promised / step.num_rows, num_accepted / step.num_rows)
        if kinds == _GOVERNED:
            plain = self._cost.seconds(step.num_rows, num_prompt_tokens=0, drafting=0)
            prefill = self._cost.per_prompt_token * step.num_prompt_tokens
            self._gain.add(plain * step.num_emitted / step.num_rows + prefill, seconds)
            self._switch()

    def stats(self) -> GovernorStats:
        """A reading."""
        return GovernorStats(
            self._num_probe_steps,
            self._num_off_steps,
            self.is_paused,
            self._gain.value,
            self._cost.base,
            self._cost.per_token,
            self._num_cut_tokens,
        )

    # -- inside
    def _next_kind(self) -> _Kind:
        if self.is_paused:
            self._pause_left -= 1
            self._num_off_steps += 1
            return _Kind.PAUSED
        at = self._at if self._at < self._probe_every else 0
        self._at = at + 1
        self._until_long -= 1
        is_long = at == _NUM_UNDRAFTED_PROBES and self._until_long < 0
        if at >= _NUM_UNDRAFTED_PROBES and not is_long:
            return _Kind.GOVERNED
        self._num_probe_steps += 1
        if not is_long:
            return _Kind.UNDRAFTED
        self._until_long = _PROBE_EVERY - 1
        return _Kind.LONG

    @property
    def _probe_every(self) -> int:
        """Where drafting hardly pays or loses, not drafting costs nothing."""
        return _PROBE_EVERY if self._gain.value >= _CLEAR_GAIN else _PROBE_EVERY_IN_DOUBT

    def _drafted_seconds(self, num_rows: int) -> float:
        """Of a drafted step without any draft token. Prefill is no part of it: it is done once,
        however many steps the decoding takes.
        """
        return self._cost.seconds(num_rows, num_prompt_tokens=0, drafting=1)

    def _switch(self) -> None:
        """Turn drafting off when it has not paid; forget earlier failures when it has for long."""
        if self._gain.is_loss:
            self._pause_left = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._at = _NUM_UNDRAFTED_PROBES + 1
            self._gain = _Gain(self._gain.value)
            self._trust = _Trust()  # the next try is one of what survivals promise
        elif self._gain.num_steps >= 2 * _GAIN_STEPS:
            self._pause = _SHORTEST_PAUSE


class _Gain:
    """Time that undrafted decoding would have taken for the same tokens, over the time taken."""

    def __init__(self, loss: float | None = None) -> None:
        """``loss`` is the gain before a pause: as if of steps as long as the first new one."""
        self.num_steps = 0
        self._loss = loss
        self._undrafted = 0.0
        self._taken = 0.0

    def add(self, undrafted: float, taken: float) -> None:
        if self.num_steps == 0 and self._loss is not None:
            self._taken = _REMEMBERED_LOSS * taken
            self._undrafted = self._loss * self._taken
        keep = 1 - 1 / _GAIN_STEPS
        self._undrafted = keep * self._undrafted + undrafted
        self._taken = keep * self._taken + taken
        self.num_steps += 1

    @property
    def value(self) -> float:
        if self._taken > 0:
            return self._undrafted / self._taken
        return 1.0 if self._loss is None else self._loss

    @property
    def is_loss(self) -> bool:
        is_new = self._loss is None
        enough = self.num_steps >= (_MIN_GAIN_STEPS if is_new else _MIN_NEW_STEPS)
        num_counted = self.num_steps + (0 if is_new else _REMEMBERED_LOSS)
        return enough and self.value < 1 - _GAIN_DOUBT / num_counted


class _Trust:
    """Accepted draft tokens over those that survivals promised, at most 1: trees may mislead."""

    def __init__(self) -> None:
        self._promised = self._accepted = 0.0

    def add(self, promised: float, accepted: float) -> None:
        keep = 1 - 1 / _GAIN_STEPS
        self._promised = keep * self._promised + promised
        self._accepted = keep * self._accepted + accepted

    @property
    def value(self) -> float:
        return min(1.0, (self._accepted + _TRUST_PRIOR) / (self._promised + _TRUST_PRIOR))


@dataclass(frozen=True, slots=True)
class Taken:
    """What `take` found worth its time."""

    lengths: IntArray
    """[B] positions of each row."""
    threshold: float
    """The survival above which one more would have been worth it."""
    num_expected: float
    """Sum of the survivals taken."""


def take(survival: FloatArray, offsets: IntArray, *, seconds: float, per_token: float) -> Taken:
    """The positions worth their time (module docstring).

    Args:
        survival: as in `Governor.choose`.
        offsets: as there.
        seconds: of a drafted step of these rows without any draft token.
        per_token: seconds of each draft token.
    """
    num_rows = len(offsets) - 1
    order = _by_survival(survival)
    ordered = survival[order].astype(np.float64)
    tokens = np.empty(len(order) + 1)
    tokens[0] = num_rows
    np.cumsum(ordered, out=tokens[1:])
    tokens[1:] += num_rows
    thresholds = per_token * tokens / (seconds + per_token * np.arange(len(order) + 1))
    stops = np.flatnonzero(ordered <= thresholds[:-1])
    num_taken = int(stops[0]) if len(stops) else len(order)
    lengths = _lengths(order[:num_taken], offsets)
    return Taken(lengths, float(thresholds[num_taken]), float(tokens[num_taken]) - num_rows)


def _by_survival(survival: FloatArray) -> NDArray[np.int64]:
    return np.argsort(-survival, kind="stable")


def _lengths(taken: NDArray[np.int64], offsets: IntArray) -> IntArray:
    """[B] how many of the taken positions lie in each row."""
    count = np.zeros(int(offsets[-1]) + 1, dtype=np.int32)
    count[taken + 1] = 1
    return np.diff(np.cumsum(count, dtype=np.int32)[offsets])
