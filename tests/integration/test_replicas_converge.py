"""Replicas on a real server end with the same canonical snapshots, whatever happened on the way.

Covers appends written in any order and twice, delivered in any order, twice and late; bad entries
in between; a restart in the middle; compaction by either replica; a reader so slow that the log was
trimmed past it. The oracle saw every append once and in order.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import msgspec
import pytest
from redis.asyncio import Redis

from srt_common.keys import PromptKey
from srt_common.messages.tree_updates import TokensAppended, TreeUpdate
from srt_common.store.base import ShardBatch, StoredSnapshot
from srt_common.store.redis_log import RedisLogStore, connect
from srt_common.tree import PromptForest
from srt_tree_cache.replica import Replica
from support.redis_server import RedisServer
from support.replicas import ManualClock, Rig, appended, new_forest, new_replica, new_rig, prompt

CACHE = "converge"
NUM_SHARDS = 3
TIMEOUT_SECONDS = 2.0


class TroubledStore:
    """A store whose readings arrive shuffled, doubled and late, as far as the contract allows."""

    def __init__(self, inner: RedisLogStore, rng: random.Random) -> None:
        self._inner = inner
        self._rng = rng
        self.is_calm = False

    @property
    def num_shards(self) -> int:
        return self._inner.num_shards

    async def read(
        self, cursors: Mapping[int, str], *, block_seconds: float = 0.0, max_entries: int = 512
    ) -> list[ShardBatch]:
        if self.is_calm:
            return await self._inner.read(cursors)
        asked = {s: c for s, c in cursors.items() if self._rng.random() < 0.7}
        few = min(max_entries, self._rng.randint(1, 9))
        batches = await self._inner.read(
            asked, block_seconds=min(block_seconds, 0.0), max_entries=few
        )
        return [self._stir(batch) for batch in batches]

    def _stir(self, batch: ShardBatch) -> ShardBatch:
        updates = batch.updates + [u for u in batch.updates if self._rng.random() < 0.3]
        self._rng.shuffle(updates)
        return msgspec.structs.replace(batch, updates=updates)

    async def append(self, updates: Sequence[TreeUpdate]) -> None:
        await self._inner.append(updates)

    async def heads(self) -> dict[int, str]:
        return await self._inner.heads()

    async def floors(self) -> dict[int, str]:
        return await self._inner.floors()

    async def put_snapshot(self, prompt_key: PromptKey, snapshot: StoredSnapshot) -> None:
        await self._inner.put_snapshot(prompt_key, snapshot)

    async def snapshot(self, prompt_key: PromptKey) -> StoredSnapshot | None:
        return await self._inner.snapshot(prompt_key)

    async def snapshot_keys(self, shard: int) -> list[PromptKey]:
        return await self._inner.snapshot_keys(shard)

    async def remove_prompt(self, prompt_key: PromptKey) -> None:
        await self._inner.remove_prompt(prompt_key)

    async def trim(self, shard: int, cursor: str) -> None:
        await self._inner.trim(shard, cursor)

    async def close(self) -> None:
        await self._inner.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer.started() as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    redis = connect(server.url, timeout_seconds=TIMEOUT_SECONDS)
    await redis.flushall()
    yield redis
    await redis.aclose()


def log_of(redis: Redis) -> RedisLogStore:
    return RedisLogStore(
        redis,
        cache=CACHE,
        num_shards=NUM_SHARDS,
        timeout_seconds=TIMEOUT_SECONDS,
        audit_seconds=0,
    )


def all_appends(rng: random.Random) -> list[TokensAppended]:
    """Pieces of several rollouts of several prompts, in order."""
    pieces = []
    for number in range(6):
        for sequence_id in range(1, 6):
            token_ids = [rng.randrange(50) for _ in range(rng.randint(1, 24))]
            start = 0
            while start < len(token_ids):
                end = start + rng.randint(1, 6)
                piece = appended(
                    prompt(number),
                    token_ids[start:end],
                    sequence_id=100 * number + sequence_id,
                    offset=start,
                    policy_version=sequence_id,
                    lane=sequence_id % 2,
                )
                pieces.append(piece)
                start = end
    return pieces


def images(forest: PromptForest) -> dict[PromptKey, bytes | None]:
    return {key: forest.snapshot(key) for key in forest.prompt_keys()}


def expected(appends: Sequence[TokensAppended]) -> dict[PromptKey, bytes | None]:
    forest = new_forest()
    rows = [msgspec.structs.astuple(append) for append in appends]
    assert forest.apply(rows, 10**9) == len(rows)
    assert forest.stats().num_early_tokens == 0
    return images(forest)


async def settled(replica: Replica) -> dict[PromptKey, bytes | None]:
    """Everything the log still has for it, delivered calmly."""
    assert isinstance(replica.store, TroubledStore)
    replica.store.is_calm = True
    while await replica.catch_up():
        pass
    replica.forest.check()
    return images(replica.forest)


async def own_all(rig: Rig) -> None:
    await rig.keeper.renew()
    await rig.keeper.renew()


@pytest.mark.parametrize("seed", range(12))
async def test_replicas_converge_whatever_the_order_of_what_they_read(
    redis: Redis, seed: int
) -> None:
    rng = random.Random(seed)
    clock = ManualClock(start_unix=time.time() + 60)

    def start() -> Rig:
        return new_rig(TroubledStore(log_of(redis), rng), clock, log_retention_seconds=0.0)

    appends = all_appends(rng)
    written = appends + [append for append in appends if rng.random() < 0.3]
    rng.shuffle(written)
    rigs = [start(), start()]
    slow = start().replica
    await slow.catch_up()
    for begin in range(0, len(written), 10):
        await rigs[0].replica.store.append(written[begin : begin + 10])
        for rig in rigs:
            for _ in range(rng.randrange(4)):
                await rig.replica.catch_up()
        if rng.random() < 0.3:
            await redis.xadd(f"srt:{{{CACHE}:{rng.randrange(NUM_SHARDS)}}}:log", {"d": b"\xff"})
        if rng.random() < 0.3:
            compacting = rng.choice(rigs)
            await own_all(compacting)
            for shard in range(NUM_SHARDS):
                await compacting.compactor.compact(shard)
        if begin == len(written) // 20 * 10:
            rigs[rng.randrange(2)] = start()
    want = expected(appends)
    for replica in (rigs[0].replica, rigs[1].replica, slow, start().replica):
        assert await settled(replica) == want


async def test_a_reader_past_the_floor_recovers_by_snapshot(redis: Redis) -> None:
    rng = random.Random(0)
    clock = ManualClock(start_unix=time.time() + 60)
    owner = new_rig(log_of(redis), clock, log_retention_seconds=0.0)
    slow = new_replica(log_of(redis), clock)
    await slow.catch_up()
    appends = all_appends(rng)
    await owner.replica.store.append(appends)
    while await owner.replica.catch_up():
        pass
    await own_all(owner)
    for shard in range(NUM_SHARDS):
        await owner.compactor.compact(shard)
    for shard in range(NUM_SHARDS):
        assert await redis.xlen(f"srt:{{{CACHE}:{shard}}}:log") == 0
    while await slow.catch_up():
        pass
    assert images(slow.forest) == images(owner.replica.forest) == expected(appends)
    assert 0 < slow.counts.gaps <= NUM_SHARDS
