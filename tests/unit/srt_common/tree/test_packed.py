"""The packed forms: what Python packs is what comes back, and the bytes are those documented."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_common.tree import (
    pack_soft_targets,
    pack_tokens,
    unpack_soft_targets,
    unpack_tokens,
)

TOKENS = st.integers(0, (1 << 24) - 1)
ROWS = st.lists(
    st.lists(st.tuples(TOKENS, st.floats(0, 1)), max_size=12, unique_by=lambda pair: pair[0])
)


def test_tokens_are_three_little_endian_bytes_each() -> None:
    assert pack_tokens([1, 0x030201]) == b"\x01\x00\x00\x01\x02\x03"


@given(st.lists(TOKENS))
def test_tokens_come_back_as_packed(tokens: list[int]) -> None:
    unpacked = unpack_tokens(pack_tokens(tokens))
    assert unpacked.dtype == np.int32
    assert unpacked.tolist() == tokens


@pytest.mark.parametrize("token", [-1, 1 << 24])
def test_a_token_out_of_range_is_refused_by_name_and_value(token: int) -> None:
    with pytest.raises(ValueError, match=f"token_ids holds .*{token}.* but must hold 0 to 2"):
        pack_tokens([3, token])


def test_soft_targets_are_a_count_and_pairs_largest_first() -> None:
    rows = [[(7, 0.5), (2, 1.0)], []]
    code = round(-np.log(0.5) * 255 / 5.6)
    assert pack_soft_targets(rows) == bytes([2, 2, 0, 0, 0, 7, 0, 0, code, 0])


def test_no_bytes_say_that_no_position_has_soft_targets() -> None:
    assert pack_soft_targets([[], [(1, 0.0039)]]) == b""


@given(ROWS)
def test_the_eight_largest_targets_come_back_within_their_eight_bits(
    rows: list[list[tuple[int, float]]],
) -> None:
    unpacked = unpack_soft_targets(pack_soft_targets(rows))
    kept = [[pair for pair in row if pair[1] >= 0.004] for row in rows]
    if not any(kept):
        assert unpacked == []
        return
    for row, back in zip(kept, unpacked, strict=True):
        probs = sorted((p for _, p in row), reverse=True)[:8]
        assert [p for _, p in back] == pytest.approx(probs, rel=0.012)
        assert {token for token, _ in back} <= {token for token, _ in row}
