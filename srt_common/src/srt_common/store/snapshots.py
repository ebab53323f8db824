"""Stored bytes of a snapshot: msgpack ``[version, cursor, zstd image]``. Pure.

Sizes are checked before anything is unpacked; a snapshot that cannot be read is as good as none.
"""

from __future__ import annotations

import msgspec
import zstandard

from srt_common.errors import MessageError, MessageTooLarge, VersionMismatch
from srt_common.store.base import StoredSnapshot
from srt_common.store.cursors import parse_cursor

SNAPSHOT_VERSION = 1
MAX_SNAPSHOT_BYTES = 256 * 2**20
"""Of an image, before and after compression."""

CHANNEL = "tree snapshot"

_ENCODER = msgspec.msgpack.Encoder()
_VERSION_DECODER = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw, msgspec.Raw])
_CURSOR_DECODER = msgspec.msgpack.Decoder(str)
_BYTES_DECODER = msgspec.msgpack.Decoder(memoryview)


def encode_snapshot(snapshot: StoredSnapshot) -> bytes:
    """Stored form.

    Raises:
        MessageTooLarge: an image beyond `MAX_SNAPSHOT_BYTES`.
    """
    _check_size(len(snapshot.image))
    packed = zstandard.ZstdCompressor(level=1).compress(snapshot.image)
    return _ENCODER.encode((SNAPSHOT_VERSION, snapshot.cursor, packed))


def decode_snapshot(data: bytes) -> StoredSnapshot:
    """What `encode_snapshot` was given.

    Raises:
        MessageTooLarge: it claims to unpack to more than `MAX_SNAPSHOT_BYTES`.
        VersionMismatch: written by a newer version.
        MessageError: anything else that is not a snapshot.
    """
    try:
        version, cursor, packed = _VERSION_DECODER.decode(data)
        if version != SNAPSHOT_VERSION:
            raise VersionMismatch(
                channel=CHANNEL, reason=f"version {version}; this build reads {SNAPSHOT_VERSION}"
            )
        position = _CURSOR_DECODER.decode(cursor)
        parse_cursor(position)
        return StoredSnapshot(image=_unpack(_BYTES_DECODER.decode(packed)), cursor=position)
    except (msgspec.MsgspecError, zstandard.ZstdError, ValueError, RecursionError) as error:
        raise MessageError(channel=CHANNEL, reason=str(error)) from error


def _unpack(packed: memoryview) -> bytes:
    """The image; its size comes from the frame and is checked first."""
    size = zstandard.frame_content_size(packed)
    if size < 0:
        raise MessageError(channel=CHANNEL, reason="the size of the image is not given")
    _check_size(size)
    return zstandard.ZstdDecompressor().decompress(packed)


def _check_size(size: int) -> None:
    if size > MAX_SNAPSHOT_BYTES:
        raise MessageTooLarge(
            channel=CHANNEL, reason=f"image of {size} bytes; allowed are {MAX_SNAPSHOT_BYTES}"
        )
