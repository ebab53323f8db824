"""What one engine step costs, fitted while the engine runs: t = c0 + c1 * n. Pure.

* n is what a step decodes: one token for each row and every draft token it verifies. Further terms
  keep c1 what one more draft token costs: drafting has a price of its own, for the step and for
  each row; prompt tokens in the same step (chunked prefill, mixed batches) cost less than drafts,
  which need logits. That a row and a draft token cost the same without drafting ties c1 to more
  than the few drafts of a step: with a term of its own for rows it was lost in noise.
* Least squares over recent steps, older ones forgotten. A step far from the fit (garbage
  collection, a paused engine, a weight update) loses its weight; when half of its kind are far, the
  fit follows them. Undrafted steps are a kind with places of its own, so that a few among hundreds
  of drafted ones are not crowded out.
* A shared machine changes its speed within seconds, for steps of every kind. The fit is of steps at
  one speed; the pace, which follows the last few steps, turns it into seconds of now. So what
  undrafted steps cost a while ago is comparable with drafted ones of another moment. While all
  steps are drafted, a machine that got slower looks like drafting that got dearer; only where one
  kind follows the other can they be told apart, and a filter weighs steps for that (`_Pace`).
* What recent steps say nothing about keeps its value, so a fit may start wrong and stay solvable.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

_NUM_UNDRAFTED = 32
_NUM_DRAFTED = 128
"""Steps remembered of either kind."""
_FORGET = 0.997
"""Weight of a step against the one after it."""
_REFIT_EVERY = 16
"""Steps; while fewer than `_NUM_UNDRAFTED` have been seen, each one."""
_PACE_CHANGE = 0.05
_DRAFTING_CHANGE = 0.004
_DRAFTING_DOUBT = 0.3
_STEP_ERROR = 0.1
"""Standard deviations of logarithms: of the machine's speed from step to step; of what drafted
steps cost against the fit, from step to step and to begin with; of a step by itself.
"""
_FAR_PACE_ERROR = 0.4
"""At which a step counts half: a pause of the engine is not the machine's speed."""
_SHORTEST_STEP = 1e-9
"""Seconds; a clock may say that one took no time."""
_KEEP = 1.0
"""Weight of the fit so far, in steps."""
_ROUNDS = 3
_FAR = 3.0
"""Scales of the usual error at which a step has lost half of its weight."""
_MAD_TO_SIGMA = 1.4826
_SMALLEST_ERROR = 0.05
"""Of the median step: less is not taken for usual, or steps that differ would never be heard."""
_SMALLEST_SHARE = 1e-3
"""Of c1 * n in the median step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Seconds of one engine step, term by term; none is negative."""

    base: float
    """c0: a step by itself."""
    per_token: float
    """c1: each row and each verified draft token."""
    drafting: float = 0.0
    """A step that drafts and verifies, whatever the number of tokens."""
    drafting_per_row: float = 0.0
    """Each row of such a step."""
    per_prompt_token: float = 0.0
    """Each prompt token computed in the same step."""

    def seconds(
        self, num_rows: int, num_draft_tokens: int = 0, *, num_prompt_tokens: int, drafting: float
    ) -> float:
        """Expected time of a step; arguments as in `StepSample`."""
        fixed = self.base + self.drafting * drafting
        per_row = self.per_token + self.drafting_per_row * drafting
        tokens = self.per_token * num_draft_tokens + self.per_prompt_token * num_prompt_tokens
        return fixed + per_row * num_rows + tokens


INITIAL_COST = StepCost(base=5e-3, per_token=5e-5, per_prompt_token=1e-5)
"""Only its shape matters: the first step sets its size. That step computes prompts: their share
must not pass for the rows'.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSample:
    """One step of a busy engine."""

    num_rows: int
    """Requests that sampled."""
    num_draft_tokens: int
    """Verified."""
    num_prompt_tokens: int
    drafting: float
    """0 undrafted, 1 drafts were verified and the next ones made, 0.5 one of the two."""
    seconds: float
    num_steps: int = 1
    """How many ago the sample before was taken."""
    is_usual: bool = True
    """Its number of draft tokens is like that of others: what is odd must not set the pace."""

    @property
    def terms(self) -> tuple[float, ...]:
        """What each field of `StepCost` counts, in their order."""
        rows, drafts, drafting = self.num_rows, self.num_draft_tokens, self.drafting
        return (1.0, rows + drafts, drafting, drafting * rows, self.num_prompt_tokens)


_TERMS = [field.name for field in fields(StepCost)]
_PER_TOKEN = _TERMS.index("per_token")
_DRAFTING = _TERMS.index("drafting")
_PER_PROMPT_TOKEN = _TERMS.index("per_prompt_token")


class _Pace:
    """Seconds of now over those of the fit, and how far off the fit of drafted steps is, told apart
    by steps of the other kind just before: a Kalman filter on logarithms.
    """

    def __init__(self) -> None:
        self._log = 0.0
        self.drafted_error = 0.0
        """Logarithm of what drafted steps take over what the fit says, at this pace."""
        self._variance = 0.0
        self._error_variance = _DRAFTING_DOUBT**2
        self._covariance = 0.0

    @property
    def value(self) -> float:
        """Above 1 where the machine is slower than the fit."""
        return math.exp(self._log)

    def elapse(self, num_steps: int) -> None:
        """So many steps on, less is known."""
        self._variance += num_steps * _PACE_CHANGE**2
        self._error_variance += num_steps * _DRAFTING_CHANGE**2

    def follow(self, ratio: float, drafting: float) -> None:
        """A step took ``ratio`` times what the fit says."""
        error = math.log(ratio) - self._log - drafting * self.drafted_error
        doubt = _STEP_ERROR**2 * (1 + (error / _FAR_PACE_ERROR) ** 2)
        of_pace = self._variance + drafting * self._covariance
        of_error = self._covariance + drafting * self._error_variance
        gain = of_pace / (of_pace + drafting * of_error + doubt)
        error_gain = of_error / (of_pace + drafting * of_error + doubt)
        self._log += gain * error
        self.drafted_error += error_gain * error
        self._variance -= gain * of_pace
        self._covariance -= gain * of_error
        self._error_variance -= error_gain * of_error

    def learned(self, change: float) -> None:
        """The fit of drafted steps moved; as far as it went after their error, that is gone."""
        error = self.drafted_error
        self.drafted_error -= min(max(change, min(0.0, error)), max(0.0, error))


class StepTime:
    """The fit of one engine."""

    def __init__(self, initial: StepCost = INITIAL_COST) -> None:
        num_places = _NUM_UNDRAFTED + _NUM_DRAFTED
        self._terms = np.zeros((num_places, len(astuple(initial))))
        self._seconds = np.zeros(num_places)
        self._seen_at = np.full(num_places, -np.inf)
        self._next = [0, 0]
        self._num_seen = 0
        self._pace = _Pace()
        self._errors = (np.inf, np.inf)
        self._fit: NDArray[np.float64] = np.array(astuple(initial))
        self._last_drafted = np.zeros(len(self._fit))

    @property
    def cost(self) -> StepCost:
        """The fit, at the pace of now."""
        fit = self._fit.copy()
        surplus = math.expm1(self._pace.drafted_error) * float(self._last_drafted @ fit)
        fit[_DRAFTING] = max(0.0, fit[_DRAFTING] + surplus)
        return StepCost(**dict(zip(_TERMS, (self._pace.value * fit).tolist(), strict=True)))

    def observe(self, sample: StepSample) -> float:
        """Learn from a step. Returns its seconds, cut to what is plausible: a pause in one step
        says nothing about drafting.
        """
        is_drafted = sample.drafting > 0
        size = _NUM_DRAFTED if is_drafted else _NUM_UNDRAFTED
        place = self._next[is_drafted] % size + (_NUM_UNDRAFTED if is_drafted else 0)
        self._next[is_drafted] += 1
        self._num_seen += 1
        self._terms[place] = sample.terms
        expected = float(self._terms[place] @ self._fit)
        seconds = max(sample.seconds, _SHORTEST_STEP)
        self._seconds[place] = seconds / self._pace.value
        self._pace.elapse(sample.num_steps)
        if sample.is_usual and self._num_seen > 1:
            self._pace.follow(seconds / expected, sample.drafting)
        if sample.drafting == 1:
            self._last_drafted = self._terms[place].copy()
            self._last_drafted[_PER_PROMPT_TOKEN] = 0.0
        self._seen_at[place] = self._num_seen
        if self._num_seen <= _NUM_UNDRAFTED or self._num_seen % _REFIT_EVERY == 0:
            before = float(self._last_drafted @ self._fit)
            self._refit()
            after = float(self._last_drafted @ self._fit)
            if min(before, after) > 0:
                self._pace.learned(math.log(after / before))
            expected = float(self._terms[place] @ self._fit)
        likely = expected * math.exp(sample.drafting * self._pace.drafted_error)
        return min(seconds, self._pace.value * (likely + _FAR * self._errors[is_drafted]))

    def _refit(self) -> None:
        used = self._seen_at > -np.inf
        terms, seconds = self._terms[used], self._seconds[used]
        weights = _FORGET ** (self._num_seen - self._seen_at[used])
        is_drafted = terms[:, _DRAFTING] > 0
        sizes = weights @ terms / weights.sum()
        sizes[sizes == 0] = 1.0
        terms = terms / sizes
        kept = self._fit * sizes
        if self._num_seen == 1:
            kept *= seconds[0] / max(float(terms[0] @ kept), 1e-12)
        usual = _median(seconds)
        fit = kept
        for _ in range(_ROUNDS):
            errors = np.abs(seconds - terms @ fit)
            drafted = _usual_error(errors[is_drafted], usual)
            undrafted = _usual_error(errors[~is_drafted], usual)
            far = _FAR * np.where(is_drafted, drafted, undrafted)
            trust = weights / (1 + (errors / far) ** 2)
            weighted = terms * trust[:, None]
            gram = weighted.T @ terms + _KEEP * np.eye(len(fit))
            fit = _solve_non_negative(gram, weighted.T @ seconds + _KEEP * kept)
        fit[_PER_TOKEN] = max(fit[_PER_TOKEN], _SMALLEST_SHARE * usual)
        self._fit = fit / sizes
        self._errors = (undrafted, drafted)


def _solve_non_negative(
    gram: NDArray[np.float64], sums: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Solve ``gram @ x = sums`` without the terms that would be negative, which are 0."""
    found = np.zeros(len(sums))
    used = np.arange(len(sums))
    while len(used) > 0:
        solved = np.linalg.solve(gram[np.ix_(used, used)], sums[used])
        if solved.min() >= 0:
            found[used] = solved
            break
        used = used[solved > 0]
    return found


def _usual_error(errors: NDArray[np.float64], usual: float) -> float:
    """Of steps of one kind: a standard deviation from the median, so that few can hide in it."""
    median = _median(errors) if len(errors) else 0.0
    return max(_MAD_TO_SIGMA * median, _SMALLEST_ERROR * usual)


def _median(values: NDArray[np.float64]) -> float:
    """The upper one of two; several times faster than numpy's."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])
