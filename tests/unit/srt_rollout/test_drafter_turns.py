"""Turns of one rollout: what a later turn appends, and when it starts anew."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from srt_common.keys import PromptKey
from srt_common.tree import LANE_POLICY, MODE_SAMPLED, PromptForest
from srt_rollout.drafter import Drafter, RowRequest, StepBatch

KEY = PromptKey(b"p" * 16)
PROMPT = (1, 2, 3)
FIRST_TURN = (10, 11, 12)
REPLY = (20, 21)


def make_drafter() -> Drafter:
    forest = PromptForest(engine_id=1, max_bytes=1 << 24, seed=0)
    return Drafter(forest, max_draft_tokens=4, min_survival=0.1)


def open_turn(
    drafter: Drafter, context: tuple[int, ...], *, rollout_id: str = "r", version: int = 0
) -> None:
    request = RowRequest(
        request_id="request",
        prompt_key=KEY,
        prompt_token_ids=PROMPT,
        context_token_ids=context,
        policy_version=version,
        lane=LANE_POLICY,
        mode=MODE_SAMPLED,
        max_new_tokens=0,
        stop_token_ids=(),
        rollout_id=rollout_id,
    )
    drafter.open(request)


def decode(drafter: Drafter, tokens: tuple[int, ...]) -> None:
    batch = StepBatch(
        request_ids=["request"],
        new_tokens=[np.asarray(tokens, np.int32)],
        num_verified=np.zeros(1, np.int32),
        overlap=np.zeros(0, np.float32),
    )
    drafter.step(batch, drafter.plan(1))
    drafter.close("request")


def test_a_later_turn_appends_only_what_is_new_to_its_sequence() -> None:
    drafter = make_drafter()
    open_turn(drafter, ())
    decode(drafter, FIRST_TURN)
    open_turn(drafter, FIRST_TURN + REPLY)
    decode(drafter, (13, 14))
    stats = drafter.forest.stats()
    assert (stats.num_sequences, stats.num_tokens) == (1, 7)
    updates = drafter.forest.drain(100)
    assert [(it[2], it[6]) for it in updates] == [(0, 0), (3, 1), (5, 0)]
    assert len({it[1] for it in updates}) == 1
    drafter.forest.check()


@pytest.mark.parametrize(
    ("context", "rollout_id", "version"),
    [
        ((10, 99, 12, 20), "r", 0),
        (FIRST_TURN[:2], "r", 0),
        (FIRST_TURN + REPLY, "other", 0),
        (FIRST_TURN + REPLY, "", 0),
        (FIRST_TURN + REPLY, "r", 1),
    ],
    ids=["edited text", "cut text", "another rollout", "no rollout", "newer weights"],
)
def test_anything_else_starts_a_sequence_of_its_own(
    context: tuple[int, ...], rollout_id: str, version: int
) -> None:
    drafter = make_drafter()
    open_turn(drafter, ())
    decode(drafter, FIRST_TURN)
    open_turn(drafter, context, rollout_id=rollout_id, version=version)
    decode(drafter, (13,))
    stats = drafter.forest.stats()
    assert (stats.num_sequences, stats.num_tokens) == (2, 3 + len(context) + 1)
    drafter.forest.check()


def test_long_ids_of_rollouts_take_no_more_room_than_short_ones() -> None:
    """A client chooses them, and thousands are remembered."""
    drafter = make_drafter()
    tracemalloc.start()
    try:
        for number in range(64):
            open_turn(drafter, (), rollout_id=f"{number:0100000}")
            decode(drafter, FIRST_TURN)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000


def test_a_turn_that_is_still_decoding_is_not_taken_up_by_a_second_one() -> None:
    drafter = make_drafter()
    open_turn(drafter, ())
    decode(drafter, FIRST_TURN)
    sequences: list[int] = []
    for sequence_id in (5, 6):
        row = drafter.forest.open_row(
            KEY,
            np.asarray(PROMPT, np.int32),
            np.asarray(FIRST_TURN, np.int32),
            sequence_id=sequence_id,
            policy_version=0,
            lane=LANE_POLICY,
            mode=MODE_SAMPLED,
            max_new_tokens=0,
            stop_token_ids=np.zeros(0, np.int32),
            previous_sequence_id=drafter.forest.drain(100)[0][1] if not sequences else sequences[0],
        )
        sequences.append(drafter.forest.row_sequence_id(row))
    assert sequences[0] != 5
    assert sequences[1] == 6


def test_a_sequence_whose_tree_is_gone_is_not_continued() -> None:
    drafter = make_drafter()
    open_turn(drafter, ())
    drafter.forest.remove_prompt(KEY)
    decode(drafter, FIRST_TURN)
    open_turn(drafter, FIRST_TURN + REPLY)
    decode(drafter, (13,))
    updates = drafter.forest.drain(100)
    assert len({it[1] for it in updates}) == 2
