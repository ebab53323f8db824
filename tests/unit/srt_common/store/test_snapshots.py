"""Stored snapshots: read back as written, refused when damaged, never unpacked beyond the limit."""

from __future__ import annotations

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from srt_common.errors import MessageError, MessageTooLarge, VersionMismatch
from srt_common.store.base import StoredSnapshot
from srt_common.store.snapshots import (
    MAX_SNAPSHOT_BYTES,
    SNAPSHOT_VERSION,
    decode_snapshot,
    encode_snapshot,
)

SNAPSHOT = StoredSnapshot(b"image" * 100, "17-2")


@given(st.binary(max_size=2000), st.integers(0, 2**60), st.integers(0, 2**60))
def test_a_snapshot_is_read_back(image: bytes, milliseconds: int, sequence: int) -> None:
    snapshot = StoredSnapshot(image, f"{milliseconds}-{sequence}")
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot


@given(st.integers(0, 40), st.integers(0, 255))
def test_a_damaged_snapshot_is_refused_or_read_and_nothing_else(position: int, value: int) -> None:
    data = bytearray(encode_snapshot(SNAPSHOT))
    data[position % len(data)] = value
    try:
        decode_snapshot(bytes(data))
    except MessageError as error:
        assert error.channel == "tree snapshot"


def test_hostile_nesting_is_refused_like_any_other_bytes() -> None:
    with pytest.raises(MessageError):
        decode_snapshot(b"\x93\x01" + b"\x91" * 1_000_000)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode_snapshot(data)


@pytest.mark.parametrize(
    "stored",
    [
        (SNAPSHOT_VERSION, "newest", zstandard.compress(b"x")),
        (SNAPSHOT_VERSION, 5, zstandard.compress(b"x")),
        (SNAPSHOT_VERSION, "1-0", b"not compressed"),
        (SNAPSHOT_VERSION, "1-0", zstandard.compress(b"x" * 1000)[:-4]),
        (SNAPSHOT_VERSION, "1-0", None),
        (
            SNAPSHOT_VERSION,
            "1-0",
            zstandard.ZstdCompressor(write_content_size=False).compress(b"x"),
        ),
    ],
)
def test_what_no_writer_of_ours_makes_is_refused(stored: object) -> None:
    with pytest.raises(MessageError):
        decode_snapshot(msgspec.msgpack.encode(stored))


def test_a_newer_version_is_named() -> None:
    data = msgspec.msgpack.encode((SNAPSHOT_VERSION + 1, "1-0", zstandard.compress(b"x")))
    with pytest.raises(VersionMismatch, match=f"version {SNAPSHOT_VERSION + 1}"):
        decode_snapshot(data)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(MAX_SNAPSHOT_BYTES + 1))
    with pytest.raises(MessageTooLarge):
        decode_snapshot(msgspec.msgpack.encode((SNAPSHOT_VERSION, "1-0", bomb)))
