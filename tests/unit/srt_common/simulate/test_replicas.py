"""Replicas see one another's tokens after the delay, in the order in which they may, or never."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from srt_common.simulate.arms import Options, Target, make_arm
from srt_common.simulate.budget import FixedBudget, Limits
from srt_common.simulate.replay import Arm, Replica, Setting
from srt_common.simulate.row import Row
from srt_common.tree import Update
from support.recorded import COST, Scripted, rollout, single, trace

TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]

SPLITS_TWO = 4
"""A seed that routes two rollouts to two replicas."""


def tokens_per_step(**options: object) -> float:
    recorded = trace(*[single(TEXT)] * 24)
    chosen = Options(num_replicas=4, min_survival=0.0, **options)  # type: ignore[arg-type]
    arm = make_arm("srt", recorded, chosen, Target())
    arm.begin(())
    for it in recorded.rollouts:
        arm.run([it])
    return arm.end().tally.tokens_per_step


def test_sharing_at_once_beats_private_trees() -> None:
    shared = tokens_per_step(is_shared=True, publish_delay_seconds=0.0)
    assert shared > 1.2 * tokens_per_step(is_shared=False)


def test_a_delay_beyond_the_replay_is_as_good_as_private_trees() -> None:
    private = tokens_per_step(is_shared=False)
    assert tokens_per_step(is_shared=True, publish_delay_seconds=1e6) == private


def test_replicas_hold_what_they_shared_observations_not_counted() -> None:
    turns = rollout((TEXT[:8], True), ([70, 71], False), (TEXT[8:], True))
    recorded = trace(*[turns] * 8)
    options = Options(num_replicas=2, publish_delay_seconds=0.0)
    arm = make_arm("srt", recorded, options, Target())
    arm.begin(recorded.rollouts[:4])
    assert arm.end().held.num_tokens == 2 * 4 * len(TEXT)


class Postbox(Scripted):
    """Publishes one update a step and notes how many of the other's it has seen by each step."""

    def __init__(self) -> None:
        super().__init__(0, 0)
        self.num_seen = 0
        self.seen_by_step: list[int] = []

    def step(self, rows: Sequence[Row], limits: Limits) -> list[list[int]]:
        self.seen_by_step.append(self.num_seen)
        return super().step(rows, limits)

    def drain(self) -> list[Update]:
        return [(b"", 0, 0, 0, 0, 0, 0, b"", b"")] if self.seen_by_step else []

    def apply(self, updates: Sequence[Update]) -> None:
        self.num_seen += len(updates)


@pytest.mark.parametrize("delay", [0, 3, 100])
def test_updates_are_seen_when_the_delay_is_over(delay: int) -> None:
    """Two replicas decode a token a second, the first one at no cost. What one publishes at the end
    of a step is seen by steps of the other that begin when the delay is over, by no earlier one.
    """
    boxes = [Postbox(), Postbox()]
    rollouts = [single(range(8)), single(range(8))]
    setting = Setting(COST, delay, is_shared=True, first_token_counts=False, seed=SPLITS_TWO)
    replicas = [Replica(box, FixedBudget(0, 0)) for box in boxes]
    arm = Arm("a", trace(*rollouts), setting, lambda: replicas)
    arm.begin(())
    arm.run(rollouts)
    ends = range(8)
    expected = [sum(end + delay <= start for end in ends) for start in range(1, 7)]
    assert [box.seen_by_step[2:] for box in boxes] == [expected, expected]
