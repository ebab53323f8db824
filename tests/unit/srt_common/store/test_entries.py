"""Splitting updates into entries changes nothing but their cut, and every entry can be read."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt_common.errors import MessageError
from srt_common.messages.codec import MAX_ENTRY_BYTES
from srt_common.messages.tree_updates import (
    PromptRemoved,
    TokensAppended,
    TokensUsed,
    TreeUpdate,
)
from srt_common.store.entries import (
    PIECE_TOKENS,
    TARGET_ENTRY_BYTES,
    decode_entries,
    encode_entries,
)

KEY = bytes(16)


def appended(num_tokens: int, counts: list[int] | None = None) -> TokensAppended:
    """Numbered tokens with ``counts[i % n]`` soft targets at token i."""
    tokens = b"".join(i.to_bytes(3, "little") for i in range(num_tokens))
    soft = b""
    if counts:
        rows = (counts[i % len(counts)] for i in range(num_tokens))
        soft = b"".join(bytes([count]) + b"abcd" * count for count in rows)
    return TokensAppended(KEY, 9, 40, 2, 1, 5, 0, tokens, soft)


def joined(pieces: list[TreeUpdate]) -> list[TreeUpdate]:
    """Pieces that continue each other, put together again."""
    whole: list[TreeUpdate] = []
    for piece in pieces:
        last = whole[-1] if whole else None
        if (
            isinstance(piece, TokensAppended)
            and isinstance(last, TokensAppended)
            and last.offset + len(last.tokens) // 3 == piece.offset
        ):
            tokens, soft = last.tokens + piece.tokens, last.soft + piece.soft
            whole[-1] = msgspec.structs.replace(last, tokens=tokens, soft=soft)
        elif isinstance(piece, TokensUsed) and isinstance(last, TokensUsed):
            offsets = last.offsets + piece.offsets
            whole[-1] = msgspec.structs.replace(last, offsets=offsets)
        else:
            whole.append(piece)
    return whole


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([1, PIECE_TOKENS, 21_000, 22_000, 40 * PIECE_TOKENS, 50_000]),
    st.none() | st.lists(st.integers(0, 8), min_size=1, max_size=3),
)
def test_cut_updates_join_to_what_they_were(num_tokens: int, counts: list[int] | None) -> None:
    sent = appended(num_tokens, counts)
    updates, num_rejected = decode_entries(encode_entries([sent]))
    assert (joined(updates), num_rejected) == ([sent], 0)


def test_a_long_list_of_used_positions_is_cut_too() -> None:
    sent = TokensUsed(KEY, 1, list(range(TARGET_ENTRY_BYTES)))
    entries = encode_entries([sent])
    assert len(entries) > 1
    assert joined(decode_entries(entries)[0]) == [sent]


def test_small_updates_share_an_entry_and_keep_their_order() -> None:
    sent: list[TreeUpdate] = [appended(3), PromptRemoved(KEY), TokensUsed(KEY, 1, [2])]
    [entry] = encode_entries(sent)
    assert decode_entries([entry]) == (sent, 0)


def test_entries_stay_near_their_target_size() -> None:
    sent: list[TreeUpdate] = [appended(1000, [8]) for _ in range(40)]
    entries = encode_entries(sent)
    assert len(entries) >= 40 * 36_000 // TARGET_ENTRY_BYTES
    assert max(map(len, entries)) < 2 * TARGET_ENTRY_BYTES < MAX_ENTRY_BYTES
    assert decode_entries(entries)[0] == sent


def test_no_updates_make_no_entry() -> None:
    assert encode_entries([]) == []


def test_entries_that_are_none_of_ours_are_counted_and_skipped() -> None:
    [good] = encode_entries([PromptRemoved(KEY)])
    updates, num_rejected = decode_entries([None, good, b"\x00", good])
    assert (updates, num_rejected) == ([PromptRemoved(KEY)] * 2, 2)


def test_soft_targets_that_end_before_their_tokens_are_refused() -> None:
    whole = appended(30_000, [1])
    with pytest.raises(MessageError, match="soft targets end"):
        encode_entries([msgspec.structs.replace(whole, soft=whole.soft[:100])])
