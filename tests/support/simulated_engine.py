"""An engine of which only the time is simulated: t(n) = c0 + c1 * n, drafts accepted at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srt_common.governor import Governor, MeasuredStep

DRAFT = 16
WANDER_STEPS = 50


@dataclass(kw_only=True)
class Load:
    """What the engine decodes, and what it costs."""

    base: float
    per_token: float
    num_rows: int
    """Most at once."""
    acceptance: float
    """Mean chance of a draft token."""
    lie: float = 1.0
    """True chance over the one that survivals are made of."""
    noise: float = 0.0
    drift: float = 0.0
    """Relative growth of step time per step, up and down again."""
    wander: float = 0.0
    """Standard deviation of the logarithm of step time, which forgets itself in 50 steps."""
    overhead: float = 0.0
    """Fixed time of drafting and verifying, half of it for each. Who has verified verifies nothing
    once more before sampling as if there were no drafts.
    """
    end_chance: float = 0.0
    """Of a row, with each token it samples."""
    abort_chance: float = 0.0
    """That before a step half of the rows go, with their drafts."""
    is_refilled: bool = True
    """New rows come at once; else when the last one has ended, as in the tail of a phase."""
    prompt_tokens: int = 0
    """Of a new row, computed in the step that samples its first token."""
    per_prompt_token: float = 0.0


@dataclass
class Outcome:
    """Sums over steps. Times are expected ones, without noise: luck is not what is tested."""

    seconds: float = 0.0
    undrafted_seconds: float = 0.0
    """Of undrafted decoding for the same tokens."""
    num_steps: int = 0
    num_draft_tokens: int = 0
    num_prompt_tokens: int = 0
    num_aborted: int = 0

    @property
    def speedup(self) -> float:
        return self.undrafted_seconds / self.seconds


class SimulatedEngine:
    """Steps a governor through loads."""

    def __init__(self, governor: Governor, *, seed: int) -> None:
        self.governor = governor
        self._rng = np.random.default_rng(seed)
        self._num_steps = 0
        self._pace = 0.0
        self._lengths: NDArray[np.int32] = np.zeros(0, np.int32)
        self._chances: NDArray[np.float64] = np.zeros((0, DRAFT))
        self._was_drafting = (False, False)
        """The step before the last, the last."""

    def run(self, load: Load, num_steps: int) -> Outcome:
        outcome = Outcome()
        self._lengths = np.zeros(0, np.int32)
        self._chances = np.zeros((0, DRAFT))
        for _ in range(num_steps):
            self._step(load, outcome)
        return outcome

    def _step(self, load: Load, outcome: Outcome) -> None:
        self._abort(load, outcome)
        num_prompt_tokens = load.prompt_tokens * self._arrive(load)
        num_rows, num_drafts = len(self._lengths), int(self._lengths.sum())
        accepted = self._accepted()
        num_emitted = num_rows + int(accepted.sum())
        goes_on = self._rng.random(num_rows) < (1 - load.end_chance) ** (1 + accepted)
        is_drafting = self._draft(load, goes_on)
        drafting = load.overhead * (any(self._was_drafting) + is_drafting) / 2
        self._was_drafting = (self._was_drafting[1], is_drafting)
        self._num_steps += 1
        slow = 1 + 0.3 * np.sin(load.drift * self._num_steps / 0.3)
        slow *= self._wandered(load.wander)
        plain = slow * (load.base + load.per_token * num_rows)
        prefill = slow * load.per_prompt_token * num_prompt_tokens
        seconds = plain + prefill + slow * (load.per_token * num_drafts + drafting)
        outcome.seconds += seconds
        outcome.undrafted_seconds += plain * num_emitted / num_rows + prefill
        outcome.num_steps += 1
        outcome.num_draft_tokens += num_drafts
        outcome.num_prompt_tokens += num_prompt_tokens
        self.governor.observe(
            MeasuredStep(
                num_rows=num_rows,
                num_draft_tokens=num_drafts,
                num_prompt_tokens=num_prompt_tokens,
                num_emitted=num_emitted,
                seconds=seconds * self._disturbance(load.noise),
            )
        )

    def _abort(self, load: Load, outcome: Outcome) -> None:
        if self._rng.random() < load.abort_chance:
            outcome.num_aborted += len(self._lengths) // 2
            self._keep(np.arange(len(self._lengths)) % 2 == 0)

    def _arrive(self, load: Load) -> int:
        """How many rows come; they have no draft yet."""
        num_rows = len(self._lengths)
        num_new = load.num_rows - num_rows if load.is_refilled or num_rows == 0 else 0
        self._lengths = np.append(self._lengths, np.zeros(num_new, np.int32))
        self._chances = np.concatenate((self._chances, np.zeros((num_new, DRAFT))))
        return num_new

    def _keep(self, stays: NDArray[np.bool_]) -> None:
        self._lengths, self._chances = self._lengths[stays], self._chances[stays]

    def _accepted(self) -> NDArray[np.int64]:
        """[rows]."""
        is_accepted = self._rng.random(self._chances.shape) < self._chances
        is_drafted = np.arange(DRAFT) < self._lengths[:, None]
        accepted: NDArray[np.int64] = (is_accepted & is_drafted).cumprod(axis=1).sum(axis=1)
        return accepted

    def _draft(self, load: Load, goes_on: NDArray[np.bool_]) -> bool:
        """Drafts for the rows that go on; the others leave."""
        num_rows = len(goes_on)
        plan = self.governor.plan(num_rows)
        spread = self._rng.uniform(0.5, 1.5, (num_rows, DRAFT))
        claimed = np.minimum(load.acceptance * spread, 0.999)
        self._chances = claimed * load.lie
        self._lengths = np.zeros(num_rows, np.int32)
        if plan.is_drafting:
            survival = claimed.cumprod(axis=1)
            is_drafted = (survival >= plan.min_survival) & goes_on[:, None]
            offsets = np.zeros(num_rows + 1, np.int32)
            np.cumsum(is_drafted.sum(axis=1), out=offsets[1:])
            drafted = survival[is_drafted].astype(np.float32)
            self._lengths = self.governor.choose(drafted, offsets)
        self._keep(goes_on)
        return plan.is_drafting

    def _wandered(self, wander: float) -> float:
        kept = 1 - 1 / WANDER_STEPS
        self._pace = kept * self._pace + (1 - kept**2) ** 0.5 * self._rng.normal(0.0, 1.0)
        return float(np.exp(wander * self._pace))

    def _disturbance(self, noise: float) -> float:
        """Of a measured time; now and then a pause."""
        pause = 20.0 if noise and self._rng.random() < 0.005 else 1.0
        return pause * max(0.3, self._rng.normal(1.0, noise))
