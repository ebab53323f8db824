"""Drafts coupled with recorded text follow q and are accepted with the overlap of p and q."""

from __future__ import annotations

import numpy as np
import pytest

from srt_common.errors import TreeError
from srt_common.tree import PromptForest, Recorded, pack_soft_targets
from support.trees import NO_PROBS, NO_TOKENS, extend, make_forest, open_row, state, step, update

NUM_ROWS = 2000


def two_ways() -> PromptForest:
    """A tree in which 4 is followed by 5 and by 6, evenly."""
    forest = make_forest(max_outbox_tokens=0)
    soft = pack_soft_targets([[(4, 1.0)], [(5, 0.5), (6, 0.5)]])
    extend(forest, update([4, 5], soft=soft))
    return forest


def recorded(token: int, probs: dict[int, float]) -> Recorded:
    """One token that is known to follow, sampled from ``probs``."""
    return (
        np.asarray([0, 1], np.int32),
        np.asarray([token], np.int32),
        np.asarray([0, len(probs)], np.int32),
        np.asarray(list(probs), np.int32),
        np.asarray(list(probs.values()), np.float32),
    )


def share_of_fives(text: Recorded) -> float:
    forest, num_fives = two_ways(), 0
    for number in range(NUM_ROWS):
        row = open_row(forest, sequence_id=100 + number)
        step(forest, row, [4], max_draft=0)
        drafts = step(forest, row, [], max_draft=1, recorded=text)
        num_fives += drafts.token_ids.tolist() == [5]
        forest.close_row(row)
    return num_fives / NUM_ROWS


def test_a_draft_equals_the_recorded_token_as_often_as_q_has_it_when_the_policy_was_sure() -> None:
    assert share_of_fives(recorded(5, {5: 1.0})) == pytest.approx(0.5, abs=0.05)


def test_a_draft_equals_the_recorded_token_whenever_q_is_p() -> None:
    assert share_of_fives(recorded(5, {5: 0.5, 6: 0.5})) > 0.97
    assert share_of_fives(recorded(6, {5: 0.5, 6: 0.5})) < 0.03


def test_text_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    forest = two_ways()
    row = open_row(forest)
    before = state(forest)
    offsets, tokens, *targets = recorded(5, {5: 1.0})
    for wrong in (
        (np.asarray([0, 2], np.int32), tokens, *targets),
        (offsets[:1], tokens, *targets),
        (offsets, tokens, targets[0], NO_TOKENS, NO_PROBS),
        (offsets, tokens, targets[0], targets[1], NO_PROBS),
    ):
        with pytest.raises(TreeError, match="recorded is of unequal lengths"):
            step(forest, row, [], recorded=wrong)
    assert state(forest) == before
