"""An engine of which only the time is simulated: t(n) = c0 + c1 * n, drafts accepted at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srt_rollout.governor import Governor, MeasuredStep

DRAFT = 16


@dataclass(kw_only=True)
class Load:
    """What the engine decodes, and what it costs."""

    base: float
    per_token: float
    num_rows: int
    acceptance: float
    """Mean chance of a draft token."""
    lie: float = 1.0
    """True chance over the one that survivals are made of."""
    noise: float = 0.0
    drift: float = 0.0
    """Relative growth of step time per step, up and down again."""
    overhead: float = 0.0
    """Fixed time of drafting and verifying."""


@dataclass
class Outcome:
    """Sums over steps. Times are expected ones, without noise: luck is not what is tested."""

    seconds: float = 0.0
    undrafted_seconds: float = 0.0
    """Of undrafted decoding for the same tokens."""
    num_steps: int = 0
    num_draft_tokens: int = 0

    @property
    def speedup(self) -> float:
        return self.undrafted_seconds / self.seconds


class SimulatedEngine:
    """Steps a governor through loads."""

    def __init__(self, governor: Governor, *, seed: int) -> None:
        self.governor = governor
        self._rng = np.random.default_rng(seed)
        self._num_steps = 0
        self._lengths: NDArray[np.int32] = np.zeros(0, np.int32)
        self._chances: NDArray[np.float64] = np.zeros((0, DRAFT))
        self._was_drafting = False

    def run(self, load: Load, num_steps: int) -> Outcome:
        outcome = Outcome()
        self._lengths = np.zeros(load.num_rows, np.int32)
        self._chances = np.zeros((load.num_rows, DRAFT))
        for _ in range(num_steps):
            self._step(load, outcome)
        return outcome

    def _step(self, load: Load, outcome: Outcome) -> None:
        num_drafts = int(self._lengths.sum())
        num_emitted = load.num_rows + self._accepted()
        is_drafting = self._draft(load)
        drafting = load.overhead * (self._was_drafting + is_drafting) / 2
        self._was_drafting = is_drafting
        self._num_steps += 1
        slow = 1 + 0.3 * np.sin(load.drift * self._num_steps / 0.3)
        plain = slow * (load.base + load.per_token * load.num_rows)
        seconds = plain + slow * (load.per_token * num_drafts + drafting)
        outcome.seconds += seconds
        outcome.undrafted_seconds += plain * num_emitted / load.num_rows
        outcome.num_steps += 1
        outcome.num_draft_tokens += num_drafts
        self.governor.observe(
            MeasuredStep(
                num_rows=load.num_rows,
                num_draft_tokens=num_drafts,
                num_prompt_tokens=0,
                num_emitted=num_emitted,
                seconds=seconds * self._disturbance(load.noise),
            )
        )

    def _accepted(self) -> int:
        is_accepted = self._rng.random(self._chances.shape) < self._chances
        is_drafted = np.arange(DRAFT) < self._lengths[:, None]
        return int((is_accepted & is_drafted).cumprod(axis=1).sum())

    def _draft(self, load: Load) -> bool:
        plan = self.governor.plan(load.num_rows)
        spread = self._rng.uniform(0.5, 1.5, (load.num_rows, DRAFT))
        claimed = np.minimum(load.acceptance * spread, 0.999)
        self._chances = claimed * load.lie
        self._lengths = np.zeros(load.num_rows, np.int32)
        if plan.is_drafting:
            survival = claimed.cumprod(axis=1)
            is_drafted = survival >= plan.min_survival
            offsets = np.zeros(load.num_rows + 1, np.int32)
            np.cumsum(is_drafted.sum(axis=1), out=offsets[1:])
            drafted = survival[is_drafted].astype(np.float32)
            self._lengths = self.governor.choose(drafted, offsets)
        return plan.is_drafting

    def _disturbance(self, noise: float) -> float:
        """Of a measured time; now and then a pause."""
        pause = 20.0 if noise and self._rng.random() < 0.005 else 1.0
        return pause * max(0.3, self._rng.normal(1.0, noise))
