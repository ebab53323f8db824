"""Small traces written by hand, and a drafter that drafts what it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from srt_common.simulate.budget import CostModel, FixedBudget, Limits
from srt_common.simulate.drafters import Drafter, Unshared
from srt_common.simulate.replay import Arm, Replica, Setting
from srt_common.simulate.row import Row
from srt_common.simulate.tally import Tally, Timing
from srt_common.simulate.trace import Rollout, Trace, Turn

COST = CostModel(c0_seconds=1.0, c1_seconds=0.0)


def rollout(
    *segments: tuple[Sequence[int], bool], prompt_index: int = 0, policy_version: int = 0
) -> Rollout:
    """Of segments (tokens, is generated)."""
    tokens = [token for part, _ in segments for token in part]
    turns, at = [], 0
    for part, is_generated in segments:
        if is_generated:
            turns.append(Turn(at, at + len(part), at))
        at += len(part)
    return Rollout(prompt_index, policy_version, np.asarray(tokens, np.int32), tuple(turns))


def single(tokens: Sequence[int], *, prompt_index: int = 0) -> Rollout:
    """One turn."""
    return rollout((tokens, True), prompt_index=prompt_index)


def trace(*rollouts: Rollout, prompts: int = 1) -> Trace:
    """A text trace whose prompts are [1000], [1001], ..."""
    texts = [np.asarray([1000 + number], np.int32) for number in range(prompts)]
    return Trace("by hand", texts, rollouts)


class Scripted(Unshared):
    """Drafts ``num_right`` tokens that will be accepted and ``num_wrong`` that will not."""

    def __init__(self, num_right: int, num_wrong: int) -> None:
        self.timing = Timing()
        self.told: dict[int, list[int]] = {}
        self.is_open: dict[int, bool] = {}
        self._num_right = num_right
        self._num_wrong = num_wrong

    def open(self, row: Row) -> None:
        self.told[row.number] = row.text_before(0)
        self.is_open[row.number] = True

    def step(self, rows: Sequence[Row], limits: Limits) -> list[list[int]]:
        for row in rows:
            self.told[row.number] += row.new_tokens
        return [self._draft(row)[: limits.max_draft_tokens] for row in rows]

    def close(self, row: Row) -> None:
        self.is_open[row.number] = False

    def _draft(self, row: Row) -> list[int]:
        start = row.at - row.turn.start
        return row.text[start : start + self._num_right] + [-1] * self._num_wrong


def replayed(
    make_drafter: Callable[[], Drafter],
    recorded: Trace,
    batches: Sequence[Sequence[Rollout]],
    *,
    history: Sequence[Rollout] = (),
    cost: CostModel = COST,
    first_token_counts: bool = False,
) -> Tally:
    """Counts of one replica that drafts at most 16 tokens."""
    setting = Setting(cost, 0.0, is_shared=False, first_token_counts=first_token_counts, seed=0)
    replica = Replica(make_drafter(), FixedBudget(16, 0.1))
    arm = Arm("arm", recorded, setting, lambda: [replica])
    arm.begin(history)
    for batch in batches:
        arm.run(batch)
    return arm.end().tally
