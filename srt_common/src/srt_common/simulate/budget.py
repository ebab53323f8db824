"""How far a step may draft, and what a step costs. Pure.

A budget is asked before each step and told after it: the same two calls for a fixed setting and
for a governor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from srt_common.governor import FloatArray, Governor, IntArray, MeasuredStep
from srt_common.step_time import StepCost

Cut: TypeAlias = Callable[[FloatArray, IntArray], IntArray]
"""As `Governor.choose`: from survivals how many positions of each draft to keep."""

MIN_SURVIVAL = 1e-3
MAX_SURVIVAL = 0.95
_CATCH_UP_ROWS = 4000
_GAIN = 1e-3


class Limits(NamedTuple):
    """What one step may draft."""

    max_draft_tokens: int
    """Per row; 0: nothing."""
    min_survival: float
    """A draft ends before the position whose chance of being accepted falls below it."""
    cut: Cut | None = None
    """What is kept of the drafts; None: all."""


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of a decoding step over n scheduled tokens: c0 + c1 n."""

    c0_seconds: float
    c1_seconds: float

    def step_seconds(self, num_tokens: float) -> float:
        """t(n)."""
        return self.c0_seconds + self.c1_seconds * num_tokens


class Budget(Protocol):
    """Decides what a step may draft."""

    def limits(self, num_rows: int) -> Limits:
        """For the step that comes next."""
        ...

    def observe(self, num_rows: int, num_draft_tokens: int, num_tokens: int) -> None:
        """A step of ``num_rows`` rows verified drafts and yielded ``num_tokens`` tokens."""
        ...


@dataclass(frozen=True, slots=True)
class FixedBudget:
    """The same for every step."""

    max_draft_tokens: int
    min_survival: float

    def limits(self, num_rows: int) -> Limits:
        """As given."""
        del num_rows
        return Limits(self.max_draft_tokens, self.min_survival)

    def observe(self, num_rows: int, num_draft_tokens: int, num_tokens: int) -> None:
        """Learns nothing."""


class GovernedBudget:
    """The engines' own governor, by the clock of a cost model that it knows from the start."""

    def __init__(self, cost: CostModel, *, max_draft_tokens: int) -> None:
        self._cost = cost
        self._max_draft_tokens = max_draft_tokens
        self._governor = Governor(StepCost(base=cost.c0_seconds, per_token=cost.c1_seconds))
        self._last: MeasuredStep | None = None

    def limits(self, num_rows: int) -> Limits:
        """What it plans for the step that comes next."""
        plan = self._governor.plan(num_rows)
        length = self._max_draft_tokens if plan.is_drafting else 0
        return Limits(length, plan.min_survival, self._governor.choose)

    def observe(self, num_rows: int, num_draft_tokens: int, num_tokens: int) -> None:
        """A step is over, for the governor, when the one after it has been planned: it is told of
        the step before this one.
        """
        if self._last is not None:
            self._governor.observe(self._last)
        self._last = MeasuredStep(
            num_rows=num_rows,
            num_draft_tokens=num_draft_tokens,
            num_prompt_tokens=0,
            num_emitted=num_tokens,
            seconds=self._cost.step_seconds(num_rows + num_draft_tokens),
        )


class EqualBudget:
    """Steers the survival limit so that as many tokens are drafted a request-step as elsewhere,
    over all steps together.
    """

    def __init__(self, wanted: Callable[[], float], *, max_draft_tokens: int) -> None:
        self._wanted = wanted
        self._max_draft_tokens = max_draft_tokens
        self._log_survival = math.log(0.1)
        self._num_rows = 0
        self._num_draft_tokens = 0

    def limits(self, num_rows: int) -> Limits:
        """The same draft length for every row, a limit that moves slowly."""
        del num_rows
        return Limits(self._max_draft_tokens, math.exp(self._log_survival))

    def observe(self, num_rows: int, num_draft_tokens: int, num_tokens: int) -> None:
        """Moves the limit by what this step drafted beside its aim; the aim makes up for steps
        before it within a few thousand rows.
        """
        del num_tokens
        self._num_rows += num_rows
        self._num_draft_tokens += num_draft_tokens
        wanted = self._wanted()
        missing = wanted * self._num_rows - self._num_draft_tokens
        aim = min(max(wanted + missing / _CATCH_UP_ROWS, 0.0), 3 * wanted)
        moved = self._log_survival + _GAIN * (num_draft_tokens - aim * num_rows)
        self._log_survival = min(max(moved, math.log(MIN_SURVIVAL)), math.log(MAX_SURVIVAL))
