"""Cutting a proposal, and who decides how far a draft goes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from srt_common.governor import Governor, Plan
from srt_common.tree import LANE_POLICY, MODE_POINT_MASS
from srt_rollout.drafter import Drafter, FloatArray, IntArray, Proposal, RowRequest, StepBatch
from support.trees import KEY, extend, make_forest, update


def proposal(lengths: list[int]) -> Proposal:
    count = sum(lengths)
    pairs = np.arange(8 * count).reshape(count, 8)
    offsets = np.cumsum([0, *lengths]).astype(np.int32)
    return Proposal(
        offsets,
        np.arange(count, dtype=np.int32),
        pairs.astype(np.int32),
        pairs.astype(np.float32),
    )


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_a_cut_keeps_the_beginning_of_every_row(rows: list[tuple[int, int]]) -> None:
    lengths = [max(pair) for pair in rows]
    kept = [min(pair) for pair in rows]
    whole = proposal(lengths)
    cut = whole.cut(np.asarray(kept, np.int32))
    starts = whole.offsets[:-1].tolist()
    expected = [i for start, n in zip(starts, kept, strict=True) for i in range(start, start + n)]
    assert cut.token_ids.tolist() == expected
    assert np.diff(cut.offsets).tolist() == kept
    assert (cut.q_token_ids == whole.q_token_ids[expected]).all()
    assert (cut.q_probs == whole.q_probs[expected]).all()


def tokens(*values: int) -> IntArray:
    return np.array(values, np.int32)


def drafter_with_a_row(**options: float) -> Drafter:
    """Its prompt has been continued by 10, 11, ... before."""
    forest = make_forest()
    for sequence_id in range(1, 9):
        extend(forest, update(list(range(10, 30)), sequence_id=sequence_id))
    drafter = Drafter(forest, max_draft_tokens=8, **options)
    drafter.open(
        RowRequest(
            request_id="a",
            prompt_key=KEY,
            prompt_token_ids=[1, 2, 3],
            context_token_ids=[],
            policy_version=0,
            lane=LANE_POLICY,
            mode=MODE_POINT_MASS,
            max_new_tokens=0,
            stop_token_ids=[],
        )
    )
    return drafter


def propose(drafter: Drafter, token: int) -> list[int]:
    batch = StepBatch(["a"], [tokens(token)], tokens(0), np.zeros(0, np.float32))
    return [int(token) for token in drafter.step(batch, drafter.plan(1)).token_ids]


def test_with_a_least_survival_every_step_is_drafted() -> None:
    drafter = drafter_with_a_row(min_survival=0.0)
    assert drafter.governor is None
    assert propose(drafter, 10) == list(range(11, 19))
    assert propose(drafter, 11) == list(range(12, 20))


class TurnByTurn(Governor):
    """Drafts every second step and keeps three positions."""

    def __init__(self) -> None:
        self.num_plans = 0

    def plan(self, num_rows: int) -> Plan:
        assert num_rows == 1
        self.num_plans += 1
        return Plan(is_drafting=self.num_plans % 2 == 0, min_survival=0.0)

    def choose(self, survival: FloatArray, offsets: IntArray) -> IntArray:
        assert len(survival) == offsets[-1] == 8
        return tokens(3)


def test_without_one_the_governor_decides() -> None:
    drafter = drafter_with_a_row()
    assert drafter.governor is not None
    drafter.governor = TurnByTurn()
    assert [propose(drafter, 10 + n) for n in range(4)] == [[], [12, 13, 14], [], [14, 15, 16]]
