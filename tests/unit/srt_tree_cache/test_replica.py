"""A replica ends with the same trees whatever it missed, and serves on while the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from srt_common.errors import TreeStoreUnavailable
from srt_common.keys import PromptKey
from srt_common.messages.tree_updates import PromptRemoved, TokensUsed
from srt_common.store.base import ShardBatch, StoredSnapshot
from srt_common.store.memory import MemoryStore
from srt_tree_cache.replica import BLOCK_SECONDS, Replica
from support.replicas import ManualClock, appended, new_replica, prompt, until


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(num_shards=2, clock=clock)


async def caught_up(replica: Replica) -> Replica:
    while await replica.catch_up():
        pass
    return replica


def tokens(replica: Replica, key: PromptKey, sequence_id: int = 1) -> list[int]:
    held = replica.forest.sequence_tokens(key, sequence_id)
    return [] if held is None else held.tolist()


async def test_the_log_of_every_shard_ends_up_in_the_forest(
    store: MemoryStore, clock: ManualClock
) -> None:
    await store.append([appended(prompt(n), [n, n + 1]) for n in range(8)])
    await store.append([appended(prompt(3), [9], offset=2)])
    replica = await caught_up(new_replica(store, clock))
    assert replica.forest.stats().num_prompts == 8
    assert tokens(replica, prompt(3)) == [3, 4, 9]
    assert replica.counts.applied_updates == 9
    replica.forest.check()


async def test_a_large_batch_is_merged_in_slices(store: MemoryStore, clock: ManualClock) -> None:
    updates = [appended(prompt(1), [5] * 10, sequence_id=n) for n in range(50)]
    await store.append(updates)
    replica = await caught_up(new_replica(store, clock, slice_tokens=30))
    assert replica.forest.stats().num_tokens == 500


async def test_it_is_warm_once_it_has_reached_the_heads(
    store: MemoryStore, clock: ManualClock
) -> None:
    await store.append([appended(prompt(1), [1])])
    replica = new_replica(store, clock)
    await replica.catch_up()
    assert not replica.is_warm
    await replica.catch_up()
    assert replica.is_warm


async def test_a_removal_counts_where_it_stands_in_the_log(
    store: MemoryStore, clock: ManualClock
) -> None:
    key = prompt(1)
    await store.append(
        [
            appended(key, [1], sequence_id=1),
            PromptRemoved(key),
            appended(key, [2], sequence_id=2),
        ]
    )
    replica = await caught_up(new_replica(store, clock))
    assert (tokens(replica, key, 1), tokens(replica, key, 2)) == ([], [2])


async def test_used_run_ahead_tokens_are_marked(store: MemoryStore, clock: ManualClock) -> None:
    key = prompt(1)
    await store.append([appended(key, [1, 2, 3], lane=1), TokensUsed(key, 1, [0, 2])])
    await store.append([TokensUsed(key, 1, [2]), TokensUsed(prompt(5), 1, [0])])
    stats = (await caught_up(new_replica(store, clock))).forest.stats()
    assert (stats.num_run_ahead_tokens, stats.num_run_ahead_tokens_used) == (3, 2)


async def test_a_new_replica_starts_from_snapshots_where_the_log_was_trimmed(
    store: MemoryStore, clock: ManualClock
) -> None:
    key = prompt(1)
    await store.append([appended(key, [1, 2])])
    first = await caught_up(new_replica(store, clock))
    shard = first.shard_of(key)
    image = first.forest.snapshot(key)
    assert image is not None
    await store.put_snapshot(key, StoredSnapshot(image, first.cursors[shard]))
    await store.trim(shard, first.cursors[shard])
    await store.append([appended(key, [3], offset=2)])
    second = await caught_up(new_replica(store, clock))
    assert tokens(second, key) == [1, 2, 3]
    assert second.counts.gaps == 0
    assert second.changes[shard].prompt_keys() == [key]


async def test_a_slow_reader_past_the_floor_recovers_by_snapshot(
    store: MemoryStore, clock: ManualClock
) -> None:
    key = prompt(1)
    slow = await caught_up(new_replica(store, clock))
    await store.append([appended(key, [1, 2])])
    fast = await caught_up(new_replica(store, clock))
    shard = fast.shard_of(key)
    image = fast.forest.snapshot(key)
    assert image is not None
    await store.put_snapshot(key, StoredSnapshot(image, fast.cursors[shard]))
    await store.trim(shard, fast.cursors[shard])
    await store.append([appended(key, [3], offset=2)])
    await caught_up(slow)
    assert tokens(slow, key) == [1, 2, 3]
    assert slow.counts.gaps == 1


async def test_a_store_that_lost_its_memory_takes_nothing_from_the_replica(
    store: MemoryStore, clock: ManualClock
) -> None:
    key = prompt(1)
    await store.append([appended(key, [1, 2])])
    replica = await caught_up(new_replica(store, clock))
    await store.wipe()
    await store.append([appended(key, [3], offset=2)])
    await caught_up(replica)
    assert tokens(replica, key) == [1, 2, 3]


async def test_bad_entries_updates_and_snapshots_are_counted_and_skipped(
    store: MemoryStore, clock: ManualClock
) -> None:
    key = prompt(1)
    await store.put_snapshot(key, StoredSnapshot(b"no image", "1-0"))
    await store.append_entry(0, b"\xff")
    await store.append([appended(key, [], sequence_id=4), appended(key, [1])])
    replica = new_replica(store, clock)
    bad_tokens = appended(key, [1], sequence_id=5)
    await store.append([type(bad_tokens)(key, 5, 0, 0, 0, 7, 0, b"ab")])
    await caught_up(replica)
    assert tokens(replica, key) == [1]
    assert replica.num_rejected >= 3
    replica.forest.check()


async def test_an_append_is_remembered_with_its_time(
    store: MemoryStore, clock: ManualClock
) -> None:
    clock.advance(5)
    await store.append([appended(prompt(1), [1])])
    replica = await caught_up(new_replica(store, clock))
    assert replica.appended_at(prompt(1)) == 5
    assert replica.appended_at(prompt(2)) == float("-inf")


async def test_removing_a_prompt_reaches_the_other_replicas_and_the_snapshots(
    store: MemoryStore, clock: ManualClock
) -> None:
    key = prompt(1)
    await store.append([appended(key, [1])])
    await store.put_snapshot(key, StoredSnapshot(b"x", "1-0"))
    first = await caught_up(new_replica(store, clock))
    second = await caught_up(new_replica(store, clock))
    await first.remove(key)
    assert not first.forest.has_prompt(key)
    assert await store.snapshot(key) is None
    await caught_up(second)
    assert not second.forest.has_prompt(key)
    await store.append([appended(key, [4], sequence_id=2)])
    for replica in (first, second):
        assert tokens(await caught_up(replica), key, 2) == [4]


class FlakyStore(MemoryStore):
    """A store that can be switched off."""

    is_away = False

    async def read(
        self, cursors: Mapping[int, str], *, block_seconds: float = 0.0, max_entries: int = 512
    ) -> list[ShardBatch]:
        if self.is_away:
            raise TreeStoreUnavailable(address="here", reason="away")
        return await super().read(cursors, block_seconds=block_seconds, max_entries=max_entries)

    async def snapshot_keys(self, shard: int) -> list[PromptKey]:
        if self.is_away:
            raise TreeStoreUnavailable(address="here", reason="away")
        return await super().snapshot_keys(shard)


async def test_a_failed_reading_goes_on_where_it_ended(clock: ManualClock) -> None:
    store = FlakyStore(num_shards=2, clock=clock)
    await store.append([appended(prompt(1), [1])])
    replica = new_replica(store, clock)
    store.is_away = True
    for _ in range(2):
        with pytest.raises(TreeStoreUnavailable):
            await replica.catch_up()
    store.is_away = False
    assert tokens(await caught_up(replica), prompt(1)) == [1]


async def test_following_survives_a_store_that_is_away(clock: ManualClock) -> None:
    store = FlakyStore(num_shards=1, clock=clock)
    store.is_away = True
    replica = new_replica(store, clock)
    following = asyncio.create_task(replica.follow())
    await until(lambda: replica.counts.unavailable > 0)
    store.is_away = False
    await store.append([appended(prompt(1), [1])])
    await until(lambda: replica.forest.has_prompt(prompt(1)))
    assert not following.done()
    following.cancel()


async def test_the_lag_is_the_age_of_what_was_applied_last_and_then_of_the_silence(
    clock: ManualClock,
) -> None:
    store = FlakyStore(num_shards=2, clock=clock)
    replica = new_replica(store, clock)
    await store.append([appended(prompt(1), [1])])
    clock.advance(3)
    await replica.catch_up()
    assert replica.lag_seconds() == pytest.approx(3, abs=0.01)
    await replica.catch_up()
    assert replica.lag_seconds() == 0
    store.is_away = True
    clock.advance(7)
    assert replica.lag_seconds() == pytest.approx(7 - BLOCK_SECONDS)
