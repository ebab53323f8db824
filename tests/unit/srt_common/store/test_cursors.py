"""Log positions are ordered as the server orders them, not as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_common.store.base import START
from srt_common.store.cursors import (
    appended_at_unix,
    format_cursor,
    is_before,
    parse_cursor,
    successor,
)

POSITIONS = st.tuples(st.integers(0, 2**63), st.integers(0, 2**64 - 1))


@given(POSITIONS, POSITIONS)
def test_cursors_compare_as_their_numbers(first: tuple[int, int], second: tuple[int, int]) -> None:
    assert is_before(format_cursor(first), format_cursor(second)) == (first < second)


@given(POSITIONS)
def test_the_successor_is_the_next_position(position: tuple[int, int]) -> None:
    cursor = format_cursor(position)
    assert parse_cursor(cursor) == position
    assert is_before(cursor, successor(cursor))
    assert parse_cursor(successor(cursor)) in {
        (position[0], position[1] + 1),
        (position[0] + 1, 0),
    }


def test_the_last_position_of_a_millisecond_is_followed_by_the_next_one() -> None:
    assert successor(f"5-{2**64 - 1}") == "6-0"


def test_nothing_is_before_the_start() -> None:
    assert not is_before("0-0", START)
    assert is_before(START, "0-1")


def test_a_cursor_tells_when_its_entry_was_appended() -> None:
    assert appended_at_unix("1500-3") == 1.5


@pytest.mark.parametrize("cursor", ["", "5", "5-", "-5", "a-b", "5-5-5", "$", "+"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor is"):
        parse_cursor(cursor)
