"""Updates of one shard to log entries and back, the same for every store. Pure.

* An entry stays near `TARGET_ENTRY_BYTES`, far below the codec's limits: replies stay small.
* An update too large for an entry is cut at token boundaries; the pieces merge to the same tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from srt_common.errors import MessageError
from srt_common.messages.codec import decode_entry, encode_entry
from srt_common.messages.tree_updates import TokensAppended, TokensUsed, TreeUpdate

TARGET_ENTRY_BYTES = 64 * 2**10
PIECE_TOKENS = 1024
"""Tokens, or offsets, of one piece of an update too large for an entry."""

_TOKEN_BYTES = 3
_SOFT_TARGET_BYTES = 4
_FRAME_BYTES = 64


def encode_entries(updates: Sequence[TreeUpdate]) -> list[bytes]:
    """As few entries as the target size allows; updates keep their order.

    Raises:
        MessageError: a ``soft`` that does not fit its ``tokens``.
    """
    entries: list[bytes] = []
    pending: list[TreeUpdate] = []
    num_bytes = 0
    for update in _cut(updates):
        size = _size(update)
        if pending and num_bytes + size > TARGET_ENTRY_BYTES:
            entries.append(encode_entry(pending))
            pending, num_bytes = [], 0
        pending.append(update)
        num_bytes += size
    if pending:
        entries.append(encode_entry(pending))
    return entries


def decode_entries(entries: Iterable[bytes | None]) -> tuple[list[TreeUpdate], int]:
    """Updates in order, and how many entries were none of ours and skipped."""
    updates: list[TreeUpdate] = []
    num_rejected = 0
    for entry in entries:
        try:
            updates += decode_entry(entry or b"")
        except MessageError:
            num_rejected += 1
    return updates, num_rejected


def _size(update: TreeUpdate) -> int:
    """Upper estimate of an update's encoded bytes."""
    match update:
        case TokensAppended():
            return _FRAME_BYTES + len(update.tokens) + len(update.soft)
        case TokensUsed():
            return _FRAME_BYTES + 5 * len(update.offsets)
        case _:
            return _FRAME_BYTES


def _cut(updates: Iterable[TreeUpdate]) -> Iterator[TreeUpdate]:
    """The updates, those larger than an entry in pieces."""
    for update in updates:
        if _size(update) <= TARGET_ENTRY_BYTES:
            yield update
        elif isinstance(update, TokensAppended):
            yield from _cut_tokens(update)
        elif isinstance(update, TokensUsed):
            for start in range(0, len(update.offsets), PIECE_TOKENS):
                offsets = update.offsets[start : start + PIECE_TOKENS]
                yield msgspec.structs.replace(update, offsets=offsets)


def _cut_tokens(update: TokensAppended) -> Iterator[TokensAppended]:
    """Pieces of `PIECE_TOKENS` tokens, each with its own offset and soft targets."""
    num_tokens = len(update.tokens) // _TOKEN_BYTES
    soft_start = 0
    for start in range(0, num_tokens, PIECE_TOKENS):
        end = min(start + PIECE_TOKENS, num_tokens)
        soft_end = _soft_end(update.soft, soft_start, end - start) if update.soft else 0
        yield msgspec.structs.replace(
            update,
            offset=update.offset + start,
            tokens=update.tokens[start * _TOKEN_BYTES : end * _TOKEN_BYTES],
            soft=update.soft[soft_start:soft_end],
        )
        soft_start = soft_end


def _soft_end(soft: bytes, position: int, num_tokens: int) -> int:
    """Where the soft targets of ``num_tokens`` tokens from ``position`` on end."""
    for _ in range(num_tokens):
        if position >= len(soft):
            raise MessageError(
                channel="tree update log", reason=f"soft targets end at byte {len(soft)}, too early"
            )
        position += 1 + soft[position] * _SOFT_TARGET_BYTES
    return position
