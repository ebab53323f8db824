"""Log entries: whatever is written is read back, and nothing beyond the limits is unpacked."""

from __future__ import annotations

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from srt_common.errors import MessageError, MessageTooLarge, VersionMismatch
from srt_common.messages.codec import (
    COMPRESS_ABOVE_BYTES,
    MAX_ENTRY_BYTES,
    MAX_SEQUENCE_TOKENS,
    MAX_UPDATE_TOKENS,
    MAX_UPDATES,
    decode_entry,
    encode_entry,
)
from srt_common.messages.tree_updates import (
    SCHEMA_VERSION,
    PromptRemoved,
    TokensAppended,
    TokensUsed,
    TreeUpdate,
)

KEY = bytes(16)
KEYS = st.binary(min_size=16, max_size=16)
SEQUENCES = st.integers(0, 2**64 - 1)

APPENDED = st.builds(
    TokensAppended,
    prompt_key=KEYS,
    sequence_id=SEQUENCES,
    offset=st.integers(0, 2**30),
    policy_version=st.integers(0, 2**32 - 1),
    lane=st.integers(0, 1),
    engine_id=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 1),
    tokens=st.binary(max_size=900),
    soft=st.binary(max_size=900),
)
USED = st.builds(TokensUsed, KEYS, SEQUENCES, st.lists(st.integers(0, 2**31 - 1)))
UPDATES: st.SearchStrategy[list[TreeUpdate]] = st.lists(
    st.one_of(APPENDED, USED, st.builds(PromptRemoved, KEYS)), max_size=8
)


def packed(body: object, version: object = SCHEMA_VERSION) -> bytes:
    return msgspec.msgpack.encode((version, body))


def appended(**changes: object) -> TokensAppended:
    return msgspec.structs.replace(TokensAppended(KEY, 1, 0, 0, 0, 1, 0, b"\0\0\0"), **changes)


@given(UPDATES)
def test_what_is_written_is_read_back(updates: list[TreeUpdate]) -> None:
    assert decode_entry(encode_entry(updates)) == updates


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_or_read_and_nothing_else(data: bytes) -> None:
    try:
        decode_entry(data)
    except MessageError as error:
        assert error.reason


@given(UPDATES, st.data())
def test_a_damaged_entry_is_refused_or_read_and_nothing_else(
    updates: list[TreeUpdate], data: st.DataObject
) -> None:
    entry = bytearray(encode_entry(updates))
    position = data.draw(st.integers(0, len(entry) - 1))
    entry[position] = data.draw(st.integers(0, 255))
    try:
        decode_entry(bytes(entry))
    except MessageError as error:
        assert error.channel == "tree update log"


def test_small_entries_stay_plain_and_large_ones_are_compressed() -> None:
    small = encode_entry([appended(tokens=bytes(3))])
    large = encode_entry([appended(tokens=bytes(COMPRESS_ABOVE_BYTES))])
    assert small[0] == 0x92
    assert len(large) < 100


def test_a_batch_beyond_the_limit_is_not_written() -> None:
    with pytest.raises(MessageTooLarge, match=f"allowed are {MAX_ENTRY_BYTES}"):
        encode_entry([appended(tokens=bytes(MAX_ENTRY_BYTES))])


@pytest.mark.parametrize(
    "body",
    [b"\x91" * 1_000_000, b"\x81\xa1a" * 1_000_000, b"\x91\x91\xa1\xff"],
    ids=["deep lists", "deep maps", "a tag that is no text"],
)
def test_hostile_nesting_and_text_are_refused_like_any_other_bytes(body: bytes) -> None:
    with pytest.raises(MessageError):
        decode_entry(b"\x92\x01" + body)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, 2**40])
def test_another_version_is_named(version: int) -> None:
    with pytest.raises(VersionMismatch, match=f"schema version {version}"):
        decode_entry(packed([], version))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt_key", bytes(15)),
        ("prompt_key", bytes(17)),
        ("sequence_id", -1),
        ("offset", -1),
        ("offset", MAX_SEQUENCE_TOKENS),
        ("policy_version", -1),
        ("policy_version", 2**32),
        ("lane", 2),
        ("engine_id", -1),
        ("engine_id", 2**32),
        ("flags", 2),
        ("tokens", bytes(3 * (MAX_UPDATE_TOKENS + 1))),
    ],
)
def test_a_value_out_of_bounds_is_named(field: str, value: object) -> None:
    with pytest.raises(MessageError, match=field):
        decode_entry(packed([appended(**{field: value})]))


@pytest.mark.parametrize(
    ("used", "named"),
    [
        (TokensUsed(KEY, -1, []), "sequence_id is -1"),
        (TokensUsed(KEY, 1, [0, -1]), "offset is -1"),
        (TokensUsed(KEY, 1, [2**31]), "offset is 2147483648"),
    ],
)
def test_a_used_position_out_of_bounds_is_named(used: TokensUsed, named: str) -> None:
    with pytest.raises(MessageError, match=named):
        decode_entry(packed([used]))


@pytest.mark.parametrize(
    "update",
    [
        appended(offset=MAX_SEQUENCE_TOKENS - 1),
        appended(tokens=bytes(3 * MAX_UPDATE_TOKENS)),
        appended(sequence_id=2**64 - 1, policy_version=2**32 - 1, engine_id=2**32 - 1),
    ],
    ids=["offset", "tokens", "ids"],
)
def test_a_value_at_its_bound_is_read(update: TokensAppended) -> None:
    assert decode_entry(packed([update])) == [update]


def test_too_many_updates_are_refused() -> None:
    with pytest.raises(MessageTooLarge, match="65537 updates"):
        decode_entry(packed([PromptRemoved(KEY)] * (MAX_UPDATES + 1)))


@pytest.mark.parametrize(
    "data",
    [
        zstandard.ZstdCompressor().compress(bytes(MAX_ENTRY_BYTES + 1)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000)),
        bytes(MAX_ENTRY_BYTES + 1),
    ],
    ids=["bomb", "no size", "plain"],
)
def test_an_oversized_entry_is_refused_before_it_is_unpacked(data: bytes) -> None:
    with pytest.raises(MessageTooLarge):
        decode_entry(data)
