"""Bytes of a log entry: msgpack ``[schema_version, [update...]]``, zstd above 512 B (design 12.6).

* Limits are checked before anything is allocated from what an entry claims.
* A bad entry raises `MessageError`; readers skip and count it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import zstandard

from srt_common.errors import MessageError, MessageTooLarge, VersionMismatch
from srt_common.keys import PROMPT_KEY_BYTES
from srt_common.messages.tree_updates import (
    SCHEMA_VERSION,
    TokensAppended,
    TokensUsed,
    TreeUpdate,
)

CHANNEL = "tree update log"
COMPRESS_ABOVE_BYTES = 512
MAX_ENTRY_BYTES = 4 * 2**20
"""Of an entry, before and after decompression."""
MAX_UPDATES = 65_536
MAX_UPDATE_TOKENS = 262_144
MAX_SEQUENCE_TOKENS = 2**31 - 1

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ENCODER = msgspec.msgpack.Encoder()
_VERSION_DECODER = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_UPDATES_DECODER = msgspec.msgpack.Decoder(list[TreeUpdate])


def encode_entry(updates: Sequence[TreeUpdate]) -> bytes:
    """One log entry.

    Raises:
        MessageTooLarge: more than `MAX_ENTRY_BYTES`; split the batch.
    """
    raw = _ENCODER.encode((SCHEMA_VERSION, updates))
    if len(raw) > MAX_ENTRY_BYTES:
        raise MessageTooLarge(
            channel=CHANNEL, reason=f"entry of {len(raw)} bytes; allowed are {MAX_ENTRY_BYTES}"
        )
    if len(raw) <= COMPRESS_ABOVE_BYTES:
        return raw
    return zstandard.ZstdCompressor(level=1).compress(raw)


def decode_entry(data: bytes) -> list[TreeUpdate]:
    """Updates of one log entry, in order.

    Raises:
        MessageTooLarge: the entry, or what it unpacks to, is beyond the limits.
        VersionMismatch: written by a newer schema.
        MessageError: anything else that is not an entry.
    """
    raw = _decompress(data)
    try:
        version, body = _VERSION_DECODER.decode(raw)
        if version != SCHEMA_VERSION:
            raise VersionMismatch(
                channel=CHANNEL,
                reason=f"schema version {version}; this build reads {SCHEMA_VERSION}",
            )
        updates = _UPDATES_DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(channel=CHANNEL, reason=str(error)) from error
    if len(updates) > MAX_UPDATES:
        raise MessageTooLarge(
            channel=CHANNEL, reason=f"{len(updates)} updates; allowed are {MAX_UPDATES}"
        )
    for update in updates:
        _check(update)
    return updates


def _decompress(data: bytes) -> bytes:
    if len(data) > MAX_ENTRY_BYTES:
        raise MessageTooLarge(
            channel=CHANNEL, reason=f"entry of {len(data)} bytes; allowed are {MAX_ENTRY_BYTES}"
        )
    if not data.startswith(_ZSTD_MAGIC):
        return data
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= MAX_ENTRY_BYTES:
            raise MessageTooLarge(
                channel=CHANNEL, reason=f"unpacks to {size} bytes; allowed are {MAX_ENTRY_BYTES}"
            )
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise MessageError(channel=CHANNEL, reason=str(error)) from error


def _check(update: TreeUpdate) -> None:
    """Refuse what no writer of ours produces; the tree checks the packed bytes themselves."""
    if len(update.prompt_key) != PROMPT_KEY_BYTES:
        raise MessageError(
            channel=CHANNEL,
            reason=f"prompt_key of {len(update.prompt_key)} bytes; allowed are {PROMPT_KEY_BYTES}",
        )
    if isinstance(update, TokensAppended):
        _check_appended(update)
    elif isinstance(update, TokensUsed):
        _check_range("sequence_id", update.sequence_id, 2**64 - 1)
        for offset in update.offsets:
            _check_range("offset", offset, MAX_SEQUENCE_TOKENS)


def _check_appended(update: TokensAppended) -> None:
    num_tokens = len(update.tokens) // 3
    for name, value, limit in (
        ("sequence_id", update.sequence_id, 2**64 - 1),
        ("offset", update.offset, MAX_SEQUENCE_TOKENS - num_tokens),
        ("tokens", num_tokens, MAX_UPDATE_TOKENS),
        ("policy_version", update.policy_version, 2**32 - 1),
        ("engine_id", update.engine_id, 2**32 - 1),
        ("lane", update.lane, 1),
        ("flags", update.flags, 1),
    ):
        _check_range(name, value, limit)


def _check_range(name: str, value: int, limit: int) -> None:
    if not 0 <= value <= limit:
        raise MessageError(channel=CHANNEL, reason=f"{name} is {value}; allowed are 0 to {limit}")
