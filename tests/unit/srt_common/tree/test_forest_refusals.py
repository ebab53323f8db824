"""What the forest refuses: with a sentence that names field, value and what is allowed, and without
having changed.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

from srt_common.errors import TreeError
from srt_common.tree import MODE_OFF
from support.trees import KEY, extend, make_forest, open_row, state, step, update

REFUSED_UPDATES: dict[str, dict[int, Any]] = {
    "tokens is 4 bytes, but must be a multiple of 3 bytes": {7: b"1234"},
    "soft is 1 rows, but must be empty or one row a token": {8: b"\x00"},
    "soft is a row of 9 pairs, but must be rows of at most 8 pairs": {8: b"\x09" + b"\x00" * 40},
    "soft is cut inside row 0, but must be whole rows": {8: b"\x01\x00"},
    "soft is row 0 out of order": {8: bytes([2, 1, 0, 0, 9, 2, 0, 0, 3, 0])},
    "soft is 1 bytes beyond the last row": {8: b"\x00\x00\x00"},
    "prompt_key is 3 bytes, but must be 16 bytes": {0: b"abc"},
    "lane is 2, but must be 0": {4: 2},
    "flags is 2, but must be 0 or FLAG_OBSERVATION": {6: 2},
    "offset is -1, but must be from 0": {2: -1},
    "offset is 268435455, but must be below": {2: (1 << 28) - 1},
    "sequence_id is 18446744073709551616, but must be from 0 to": {1: 1 << 64},
    "policy_version is -1, but must be from 0 to": {3: -1},
    "engine_id is 4294967296, but must be from 0 to": {5: 1 << 32},
}


@pytest.mark.parametrize("reason", REFUSED_UPDATES)
def test_a_malformed_update_is_refused_with_its_reason_and_changes_nothing(reason: str) -> None:
    forest = make_forest()
    extend(forest, update([1, 2, 3]))
    before = state(forest)
    fields = list(update([4, 5], sequence_id=6))
    for index, value in REFUSED_UPDATES[reason].items():
        fields[index] = value
    bad: Any = tuple(fields)
    with pytest.raises(TreeError, match=reason):
        extend(forest, bad)
    assert forest.apply([bad], 10) == 1
    assert forest.rejected() == (1, forest.rejected()[1])
    assert reason in forest.rejected()[1]
    assert state(forest) == before


def test_apply_takes_a_prefix_of_about_the_tokens_it_may_and_always_one() -> None:
    forest = make_forest()
    updates = [update([1, 2, 3], sequence_id=i) for i in range(5)]
    assert forest.apply(updates, 4) == 2
    assert forest.apply(updates[2:], 0) == 1
    assert forest.apply([], 10) == 0
    assert forest.stats().num_tokens == 9


BAD_STEPS: dict[str, dict[str, Any]] = {
    "row is 77, but must be an open row": {"rows": np.array([77], np.uint64)},
    "new_offsets is of length 1": {"new_offsets": np.array([0], np.int32)},
    "new_offsets is broken": {"new_offsets": np.array([0, 2], np.int32)},
    "new_tokens is -1, but must be token ids": {"new_tokens": np.array([-1], np.int32)},
    "num_verified is 5, but must be from 0 to": {"num_verified": np.array([5], np.int32)},
    "num_verified is -1": {"num_verified": np.array([-1], np.int32)},
    "overlap is of length 2": {"overlap": np.ones(2, np.float32)},
    "soft_probs is of length 1": {"soft_probs": np.ones(1, np.float32)},
    "soft_offsets is empty": {
        "soft_probs": np.ones(1, np.float32),
        "soft_token_ids": np.ones(1, np.int32),
    },
    "soft_offsets is broken": {"soft_offsets": np.array([0, 1], np.int32)},
    "soft_probs is NaN": {
        "soft_probs": np.array([np.nan], np.float32),
        "soft_token_ids": np.ones(1, np.int32),
        "soft_offsets": np.array([0, 1], np.int32),
    },
    "max_draft_tokens is 129": {"max_draft_tokens": np.array([129], np.int32)},
    "max_draft_tokens is of length 2": {"max_draft_tokens": np.array([1, 1], np.int32)},
    "min_survival is NaN": {"min_survival": float("nan")},
}


@pytest.mark.parametrize("reason", BAD_STEPS)
def test_a_step_that_does_not_fit_is_refused_and_changes_nothing(reason: str) -> None:
    forest = make_forest()
    extend(forest, update([1, 2, 3, 4, 5, 6]))
    row = open_row(forest)
    step(forest, row, [4])
    before = state(forest)
    with pytest.raises(TreeError, match=reason):
        step(forest, row, [5], **BAD_STEPS[reason])
    assert state(forest) == before


def test_a_row_may_be_in_a_batch_once() -> None:
    forest = make_forest()
    row = open_row(forest)
    twice: dict[str, Any] = {
        "rows": np.array([row, row], np.uint64),
        "new_offsets": np.zeros(3, np.int32),
        "num_verified": np.zeros(2, np.int32),
        "max_draft_tokens": np.zeros(2, np.int32),
    }
    with pytest.raises(TreeError, match="but must be without duplicates"):
        step(forest, row, [], **twice)


@pytest.mark.parametrize(
    "tokens",
    [
        np.array([1, 2], np.int64),
        np.array([1, 2], np.uint32),
        [1, 2],
    ],
    ids=["int64", "uint32", "list"],
)
def test_arrays_of_another_type_are_a_mistake_of_the_caller(tokens: Any) -> None:
    forest = make_forest()
    row = open_row(forest)
    before = state(forest)
    with pytest.raises(TypeError):
        forest.set_prompt(KEY, tokens)
    with pytest.raises(TypeError):
        step(forest, row, [1, 2], new_tokens=tokens)
    with pytest.raises(TypeError):
        open_row(forest, sequence_id=10, context=tokens)
    with pytest.raises(TypeError):
        forest.mark_used(KEY, 9, tokens)
    assert state(forest) == before


def test_strided_arrays_are_refused() -> None:
    forest = make_forest()
    row = open_row(forest)
    strided = np.arange(4, dtype=np.int32)[::2]
    with pytest.raises(TreeError, match="new_tokens is strided"):
        step(forest, row, [1, 2], new_tokens=strided)
    with pytest.raises(TreeError, match="token_ids is strided"):
        forest.set_prompt(KEY, strided)


def test_rows_are_refused_by_name() -> None:
    forest = make_forest()
    extend(forest, update([1, 2], sequence_id=9))
    with pytest.raises(TreeError, match="sequence_id is 9, but must be new to its prompt"):
        open_row(forest, sequence_id=9)
    with pytest.raises(TreeError, match="mode is 3, but must be 0, 1 or 2"):
        open_row(forest, sequence_id=8, mode=3)
    with pytest.raises(TreeError, match="row is 4, but must be an open row"):
        forest.close_row(4)
    with pytest.raises(TreeError, match="row is 4, but must be an open row"):
        forest.set_row_mode(4, MODE_OFF)
    with pytest.raises(TreeError, match="max_recent_positions is 0, but must be from 1 to 1024"):
        make_forest(max_recent_positions=0)
    with pytest.raises(TreeError, match="num_threads is 65, but must be from 0 to 64"):
        make_forest(num_threads=65)


def image(*, version: int, sequences: str, num_sequences: int) -> bytes:
    body = bytes.fromhex("53525454") + version.to_bytes(2, "little") + KEY
    body += num_sequences.to_bytes(4, "little") + bytes.fromhex(sequences)
    return body + zlib.crc32(body).to_bytes(4, "little")


SEQUENCE = "0500000000000000 03000000 01 02000000 "
RUN = "00 01000000 00000000 090000"
IMAGES = {
    "image is of version 2, but must be of version 1": image(
        version=2, sequences="", num_sequences=0
    ),
    "image is cut short": image(version=1, sequences="", num_sequences=1 << 31),
    "image is a sequence of 0 tokens": image(
        version=1, sequences=SEQUENCE + "00000000", num_sequences=1
    ),
    "image is not canonical": image(
        version=1, sequences=SEQUENCE + "02000000" + RUN + RUN, num_sequences=1
    ),
    "image is out of order": image(
        version=1, sequences=(SEQUENCE + "01000000" + RUN) * 2, num_sequences=2
    ),
    "image is 12 bytes too long": image(
        version=1, sequences=SEQUENCE + "01000000" + RUN + RUN, num_sequences=1
    ),
    "image is something else": b"x" * 40,
    "image is 3 bytes": b"xyz",
}


@pytest.mark.parametrize("reason", IMAGES)
def test_an_image_that_is_not_a_canonical_snapshot_is_refused(reason: str) -> None:
    forest = make_forest()
    extend(forest, update([1, 2, 3]))
    before = state(forest)
    with pytest.raises(TreeError, match=reason):
        forest.load_snapshot(IMAGES[reason])
    assert state(forest) == before
