"""What every tree store promises (srt_common.store.base), on each implementation.

Covers order and idempotent replay of the log, floors and gaps, snapshots, removal, blocking reads,
hostile bytes and a store that loses its memory. A server that is away or silent:
tests/integration/test_redis_log.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import msgspec
import pytest
import zstandard

from srt_common.errors import MessageTooLarge
from srt_common.keys import PromptKey, shard_of
from srt_common.messages.codec import MAX_ENTRY_BYTES
from srt_common.messages.tree_updates import (
    SCHEMA_VERSION,
    PromptRemoved,
    TokensAppended,
    TokensUsed,
    TreeUpdate,
)
from srt_common.store.base import START, ShardBatch, StoredSnapshot, TreeStore
from srt_common.store.entries import PIECE_TOKENS, TARGET_ENTRY_BYTES
from srt_common.store.memory import MemoryStore
from srt_common.store.redis_log import RedisLogStore, connect
from srt_common.store.snapshots import MAX_SNAPSHOT_BYTES
from support.redis_server import RedisServer

NUM_SHARDS = 4
CACHE = "suite"
TIMEOUT_SECONDS = 0.5


@dataclass(frozen=True)
class Rig:
    """A store, and what its keeper can do to it behind its back."""

    store: TreeStore
    inject: Callable[[int, bytes], Awaitable[None]]
    wipe: Callable[[], Awaitable[None]]
    spoil_snapshot: Callable[[PromptKey], Awaitable[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer.started() as server:
        yield server


@pytest.fixture(params=["memory", "redis_log"])
async def rig(request: pytest.FixtureRequest, server: RedisServer) -> AsyncIterator[Rig]:
    rig = _memory_rig() if request.param == "memory" else await _redis_rig(server)
    yield rig
    await rig.store.close()


def _memory_rig() -> Rig:
    store = MemoryStore(num_shards=NUM_SHARDS)

    async def spoil(key: PromptKey) -> None:
        store.spoil_snapshot(key, b"\x93\x01")

    return Rig(store, store.append_entry, store.wipe, spoil)


async def _redis_rig(server: RedisServer) -> Rig:
    redis = connect(server.url, timeout_seconds=TIMEOUT_SECONDS)
    await redis.flushall()
    store = RedisLogStore(
        redis, cache=CACHE, num_shards=NUM_SHARDS, timeout_seconds=TIMEOUT_SECONDS, audit_seconds=0
    )

    async def inject(shard: int, entry: bytes) -> None:
        await redis.xadd(f"srt:{{{CACHE}:{shard}}}:log", {"d": entry})

    async def wipe() -> None:
        await redis.flushall()

    async def spoil(key: PromptKey) -> None:
        shard = shard_of(key, NUM_SHARDS)
        await redis.set(f"srt:{{{CACHE}:{shard}}}:snap:{key.hex()}", b"\x93\x01")

    return Rig(store, inject, wipe, spoil)


def prompt(number: int) -> PromptKey:
    return PromptKey(number.to_bytes(16, "big"))


def tokens(
    key: PromptKey, offset: int = 0, *, num_tokens: int = 1, soft: bytes = b""
) -> TokensAppended:
    return TokensAppended(key, 7, offset, 3, 0, 1, 0, bytes(3) * num_tokens, soft)


def all_from_start() -> dict[int, str]:
    return dict.fromkeys(range(NUM_SHARDS), START)


async def read_all(store: TreeStore, cursors: dict[int, str], **options: int) -> list[ShardBatch]:
    """Read until nothing is new, moving ``cursors`` along."""
    seen: list[ShardBatch] = []
    while batches := await store.read(cursors, **options):
        seen += batches
        cursors.update({batch.shard: batch.cursor for batch in batches})
    return seen


def updates_of(batches: list[ShardBatch]) -> list[TreeUpdate]:
    return [update for batch in batches for update in batch.updates]


async def test_an_empty_store_has_nothing_to_read(rig: Rig) -> None:
    assert await rig.store.read(all_from_start()) == []
    assert await rig.store.heads() == await rig.store.floors() == all_from_start()


async def test_appending_nothing_writes_nothing(rig: Rig) -> None:
    await rig.store.append([])
    assert await rig.store.heads() == all_from_start()


async def test_updates_come_back_as_they_were_in_the_shard_of_their_prompt(rig: Rig) -> None:
    sent: list[TreeUpdate] = [
        tokens(prompt(1), soft=b"\x01abc\x02"),
        TokensUsed(prompt(2), 2**64 - 1, [0, 70_000]),
        PromptRemoved(prompt(3)),
    ]
    await rig.store.append(sent)
    got = await rig.store.read(all_from_start())
    assert sorted(updates_of(got), key=repr) == sorted(sent, key=repr)
    for batch in got:
        assert {shard_of(PromptKey(u.prompt_key), NUM_SHARDS) for u in batch.updates} == {
            batch.shard
        }
        assert not batch.has_gap
        assert batch.num_rejected == 0


async def test_every_reader_sees_a_shard_in_one_order_whatever_it_reads_at_a_time(rig: Rig) -> None:
    for offset in range(20):
        await rig.store.append([tokens(prompt(n), offset) for n in range(6)])
    at_once = await read_all(rig.store, all_from_start())
    bit_by_bit = await read_all(rig.store, all_from_start(), max_entries=3)
    for shard in range(NUM_SHARDS):
        whole = updates_of([batch for batch in at_once if batch.shard == shard])
        pieces = updates_of([batch for batch in bit_by_bit if batch.shard == shard])
        assert whole == pieces
        for key in {update.prompt_key for update in whole}:
            of_prompt = [u for u in whole if isinstance(u, TokensAppended) and u.prompt_key == key]
            assert [update.offset for update in of_prompt] == list(range(20))


async def test_a_cursor_goes_on_where_the_last_read_ended(rig: Rig) -> None:
    cursors = all_from_start()
    await rig.store.append([tokens(prompt(1), 0)])
    await read_all(rig.store, cursors)
    assert await rig.store.read(cursors) == []
    await rig.store.append([tokens(prompt(1), 1)])
    assert updates_of(await rig.store.read(cursors)) == [tokens(prompt(1), 1)]


async def test_a_reader_at_the_heads_sees_only_what_follows(rig: Rig) -> None:
    await rig.store.append([tokens(prompt(n)) for n in range(6)])
    cursors = await rig.store.heads()
    assert await rig.store.read(cursors) == []
    await rig.store.append([tokens(prompt(2), 1)])
    assert updates_of(await rig.store.read(cursors)) == [tokens(prompt(2), 1)]


async def test_a_reader_sees_only_the_shards_it_asked_for(rig: Rig) -> None:
    await rig.store.append([tokens(prompt(n)) for n in range(16)])
    assert {batch.shard for batch in await rig.store.read({2: START})} == {2}
    assert await rig.store.read({}) == []


async def test_the_same_append_twice_is_read_twice(rig: Rig) -> None:
    await rig.store.append([tokens(prompt(1))])
    await rig.store.append([tokens(prompt(1))])
    assert updates_of(await read_all(rig.store, all_from_start())) == [tokens(prompt(1))] * 2


async def test_an_update_larger_than_an_entry_arrives_in_pieces_that_join(rig: Rig) -> None:
    num_tokens = TARGET_ENTRY_BYTES // 2
    packed = b"".join(i.to_bytes(3, "little") for i in range(num_tokens))
    soft = b"".join(b"\x01abc\x05" if i % 2 else b"\x00" for i in range(num_tokens))
    sent = TokensAppended(prompt(1), 7, 10, 3, 1, 1, 0, packed, soft)
    await rig.store.append([sent])
    got = updates_of(await read_all(rig.store, all_from_start()))
    assert len(got) == num_tokens // PIECE_TOKENS
    pieces = [update for update in got if isinstance(update, TokensAppended)]
    assert [piece.offset for piece in pieces] == list(range(10, 10 + num_tokens, PIECE_TOKENS))
    joined = msgspec.structs.replace(
        pieces[0],
        tokens=b"".join(piece.tokens for piece in pieces),
        soft=b"".join(piece.soft for piece in pieces),
    )
    assert joined == sent


async def test_a_read_waits_for_the_first_entry_and_no_longer(rig: Rig) -> None:
    reading = asyncio.create_task(rig.store.read(all_from_start(), block_seconds=5.0))
    await asyncio.sleep(0.05)
    assert not reading.done()
    started = time.monotonic()
    await rig.store.append([tokens(prompt(1))])
    assert updates_of(await reading) == [tokens(prompt(1))]
    assert time.monotonic() - started < 1.0


async def test_a_read_without_news_ends_after_its_block_time(rig: Rig) -> None:
    started = time.monotonic()
    assert await rig.store.read(all_from_start(), block_seconds=0.7) == []
    assert 0.6 < time.monotonic() - started < 0.7 + TIMEOUT_SECONDS


async def test_a_reader_behind_the_floor_is_told_and_goes_on_with_what_is_left(rig: Rig) -> None:
    key = prompt(1)
    shard = shard_of(key, NUM_SHARDS)
    for offset in range(5):
        await rig.store.append([tokens(key, offset)])
        if offset == 2:
            middle = (await rig.store.heads())[shard]
    await rig.store.trim(shard, middle)
    assert (await rig.store.floors())[shard] == middle
    [batch] = await rig.store.read({shard: START})
    assert batch.has_gap
    assert updates_of([batch]) == [tokens(key, 3), tokens(key, 4)]
    [batch] = await rig.store.read({shard: middle})
    assert not batch.has_gap
    assert updates_of([batch]) == [tokens(key, 3), tokens(key, 4)]


async def test_a_gap_shows_even_when_nothing_follows_it_and_only_once(rig: Rig) -> None:
    key = prompt(1)
    shard = shard_of(key, NUM_SHARDS)
    await rig.store.append([tokens(key)])
    head = (await rig.store.heads())[shard]
    await rig.store.trim(shard, head)
    [batch] = await rig.store.read({shard: START})
    assert (batch.has_gap, batch.updates, batch.cursor) == (True, [], head)
    assert await rig.store.read({shard: batch.cursor}) == []
    assert (await rig.store.heads())[shard] == head


async def test_a_floor_never_moves_down(rig: Rig) -> None:
    key = prompt(1)
    shard = shard_of(key, NUM_SHARDS)
    await rig.store.append([tokens(key, 0)])
    first = (await rig.store.heads())[shard]
    await rig.store.append([tokens(key, 1)])
    second = (await rig.store.heads())[shard]
    await rig.store.trim(shard, second)
    await rig.store.trim(shard, first)
    assert (await rig.store.floors())[shard] == second


async def test_a_snapshot_comes_back_and_a_newer_one_replaces_it(rig: Rig) -> None:
    key = prompt(9)
    assert await rig.store.snapshot(key) is None
    await rig.store.put_snapshot(key, StoredSnapshot(b"", "1-0"))
    await rig.store.put_snapshot(key, StoredSnapshot(b"image" * 1000, "2-7"))
    assert await rig.store.snapshot(key) == StoredSnapshot(b"image" * 1000, "2-7")
    assert await rig.store.snapshot_keys(shard_of(key, NUM_SHARDS)) == [key]


async def test_an_older_snapshot_does_not_replace_a_newer_one(rig: Rig) -> None:
    newer = StoredSnapshot(b"newer", "10-2")
    await rig.store.put_snapshot(prompt(9), newer)
    await rig.store.put_snapshot(prompt(9), StoredSnapshot(b"older", "9-7"))
    assert await rig.store.snapshot(prompt(9)) == newer
    await rig.store.put_snapshot(prompt(9), StoredSnapshot(b"as new", "10-2"))
    assert await rig.store.snapshot(prompt(9)) == StoredSnapshot(b"as new", "10-2")


async def test_a_snapshot_that_misses_trimmed_entries_is_not_stored(rig: Rig) -> None:
    key = prompt(9)
    shard = shard_of(key, NUM_SHARDS)
    await rig.store.append([tokens(key)])
    head = (await rig.store.heads())[shard]
    await rig.store.trim(shard, head)
    await rig.store.put_snapshot(key, StoredSnapshot(b"stale", "1-0"))
    assert await rig.store.snapshot(key) is None
    await rig.store.put_snapshot(key, StoredSnapshot(b"whole", head))
    assert await rig.store.snapshot(key) == StoredSnapshot(b"whole", head)


async def test_snapshot_keys_are_those_of_the_shard(rig: Rig) -> None:
    keys = [prompt(n) for n in range(20)]
    for key in keys:
        await rig.store.put_snapshot(key, StoredSnapshot(b"x", "1-0"))
    for shard in range(NUM_SHARDS):
        expected = {key for key in keys if shard_of(key, NUM_SHARDS) == shard}
        assert set(await rig.store.snapshot_keys(shard)) == expected


async def test_an_oversized_snapshot_is_refused_before_it_is_sent(rig: Rig) -> None:
    with pytest.raises(MessageTooLarge):
        await rig.store.put_snapshot(
            prompt(1), StoredSnapshot(bytes(MAX_SNAPSHOT_BYTES + 1), "1-0")
        )
    assert await rig.store.snapshot(prompt(1)) is None


async def test_an_unreadable_snapshot_is_as_good_as_none(rig: Rig) -> None:
    await rig.store.put_snapshot(prompt(1), StoredSnapshot(b"image", "1-0"))
    await rig.spoil_snapshot(prompt(1))
    assert await rig.store.snapshot(prompt(1)) is None


async def test_a_removed_prompt_loses_its_snapshot_and_readers_hear_of_it(rig: Rig) -> None:
    key = prompt(5)
    shard = shard_of(key, NUM_SHARDS)
    await rig.store.append([tokens(key)])
    await rig.store.put_snapshot(key, StoredSnapshot(b"x", "1-0"))
    await rig.store.remove_prompt(key)
    await rig.store.append([tokens(key, 1)])
    assert await rig.store.snapshot(key) is None
    assert await rig.store.snapshot_keys(shard) == []
    expected = [tokens(key), PromptRemoved(key), tokens(key, 1)]
    assert updates_of(await rig.store.read({shard: START})) == expected


def _hostile_entries() -> list[bytes]:
    def packed(updates: object, version: int = SCHEMA_VERSION) -> bytes:
        return msgspec.msgpack.encode((version, updates))

    key = prompt(1)
    bomb = zstandard.ZstdCompressor().compress(bytes(MAX_ENTRY_BYTES + 1))
    no_size = zstandard.ZstdCompressor(write_content_size=False).compress(packed([]) * 1000)
    return [
        b"",
        b"\xff" * 100,
        b"\x92\x01\xdd\xff\xff\xff\xff",  # a list that claims 2**32 - 1 updates
        b"\x92\x01\xc6\xff\xff\xff\xff",  # bytes that claim to be 4 GiB long
        packed([], version=SCHEMA_VERSION + 1),
        packed([["a", key, 1, -1, 0, 0, 0, 0, b"abc"]]),  # a negative offset
        packed([["a", key, 1, 2**31, 0, 0, 0, 0, b"abc"]]),
        packed([["a", key[:8], 1, 0, 0, 0, 0, 0, b"abc"]]),
        packed([["z", key]]),
        b"\x92\x01\x91\x91\xa1\xff",  # a tag that is no text
        b"\x92\x01" + b"\x91" * 100_000,  # nested deeper than any stack
        packed([["a", key, 1, 0, 0, 7, 0, 0, b"abc"]]),  # no such lane
        packed([["u", key, 1, [2**40]]]),  # a position no sequence has
        bomb,
        no_size,
        bomb[: len(bomb) // 2],
        bytes(MAX_ENTRY_BYTES + 1),
    ]


async def test_hostile_entries_are_counted_and_skipped_and_their_neighbours_are_read(
    rig: Rig,
) -> None:
    key = prompt(1)
    shard = shard_of(key, NUM_SHARDS)
    hostile = _hostile_entries()
    await rig.store.append([tokens(key, 0)])
    for entry in hostile:
        await rig.inject(shard, entry)
    await rig.store.append([tokens(key, 1)])
    batches = await read_all(rig.store, {shard: START})
    assert updates_of(batches) == [tokens(key, 0), tokens(key, 1)]
    assert sum(batch.num_rejected for batch in batches) == len(hostile)


async def test_a_store_that_lost_its_memory_is_a_gap_and_then_read_from_its_start(rig: Rig) -> None:
    key = prompt(1)
    shard = shard_of(key, NUM_SHARDS)
    cursors = all_from_start()
    await rig.store.append([tokens(prompt(n)) for n in range(8)])
    await read_all(rig.store, cursors)
    await rig.wipe()
    resets = await rig.store.read(cursors)
    assert {batch.cursor for batch in resets} == {START}
    assert all(batch.has_gap and not batch.updates for batch in resets)
    cursors.update({batch.shard: batch.cursor for batch in resets})
    await rig.store.append([tokens(key, 9)])
    [batch] = await rig.store.read(cursors)
    assert (batch.shard, batch.updates, batch.has_gap) == (shard, [tokens(key, 9)], False)


async def test_closing_twice_is_harmless(rig: Rig) -> None:
    await rig.store.close()
    await rig.store.close()
