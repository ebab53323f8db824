"""What a replica says of itself and of prompts; whom eviction takes; how it ends."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.context import Context

from srt_common.errors import TreeStoreUnavailable
from srt_common.keys import PromptKey
from srt_common.messages.tree_cache import PromptSummary
from srt_common.messages.tree_updates import PromptRemoved, TokensUsed
from srt_common.store.base import START, StoredSnapshot
from srt_common.store.memory import MemoryStore
from srt_tree_cache.replica import Replica
from support.replicas import ManualClock, Rig, appended, new_replica, new_rig, prompt, until


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(num_shards=2, clock=clock)


@pytest.fixture
async def rig(store: MemoryStore, clock: ManualClock) -> Rig:
    rig = new_rig(store, clock)
    await rig.keeper.renew()
    return rig


async def caught_up(replica: Replica) -> None:
    while await replica.catch_up():
        pass


async def test_stats_count_what_is_held_and_what_happened(rig: Rig, store: MemoryStore) -> None:
    await store.append(
        [
            appended(prompt(1), [1, 2, 3]),
            appended(prompt(1), [4, 5], sequence_id=2, lane=1),
            TokensUsed(prompt(1), 2, [1]),
            appended(prompt(2), [6]),
        ]
    )
    await store.append_entry(0, b"\xff")
    await caught_up(rig.replica)
    await rig.compactor.compact(0)
    stats = await rig.cache.stats()
    assert (stats.num_prompts, stats.num_sequences, stats.num_tokens) == (2, 3, 6)
    assert (stats.num_run_ahead_tokens, stats.num_run_ahead_tokens_used) == (2, 1)
    assert stats.memory_bytes == rig.replica.forest.memory_bytes() > 0
    assert (stats.num_applied_updates, stats.num_rejected) == (4, 1)
    assert (stats.owned_shards, stats.instance, stats.is_warm) == ([0, 1], "replica-0", True)
    assert stats.num_snapshots == rig.compactor.num_snapshots
    assert (stats.num_gaps, stats.num_unavailable, stats.num_leases_lost) == (0, 0, 0)


async def test_coverage_answers_in_the_order_asked_with_zeros_for_the_unknown(
    rig: Rig, store: MemoryStore
) -> None:
    await store.append(
        [
            appended(prompt(1), [1, 2, 3], policy_version=4),
            appended(prompt(1), [1], sequence_id=2, lane=1, policy_version=6),
        ]
    )
    await caught_up(rig.replica)
    unknown, known = await rig.cache.coverage([prompt(9), prompt(1)])
    assert unknown == PromptSummary(prompt_key=prompt(9).hex())
    assert known == PromptSummary(
        prompt_key=prompt(1).hex(),
        num_sequences=2,
        num_tokens=4,
        num_run_ahead_sequences=1,
        num_run_ahead_tokens=1,
        min_policy_version=4,
        max_policy_version=6,
        memory_bytes=known.memory_bytes,
    )
    assert known.memory_bytes > 0


async def test_pages_show_every_prompt_once_in_order(rig: Rig, store: MemoryStore) -> None:
    await store.append([appended(prompt(n), [n]) for n in (5, 1, 4, 2, 3)])
    await caught_up(rig.replica)
    seen: list[str] = []
    after: PromptKey | None = None
    while True:
        page = await rig.cache.page(after=after, limit=2)
        seen += [summary.prompt_key for summary in page.prompts]
        if page.next_after is None:
            break
        after = PromptKey(bytes.fromhex(page.next_after))
    assert seen == [prompt(n).hex() for n in range(1, 6)]
    last = await rig.cache.page(after=prompt(5), limit=2)
    assert (last.prompts, last.next_after) == ([], None)


async def test_a_prefetch_puts_the_newest_tree_into_the_store(rig: Rig, store: MemoryStore) -> None:
    assert (await rig.cache.prefetch(prompt(1), Context())).result == "miss"
    await store.append([appended(prompt(1), [1])])
    await caught_up(rig.replica)
    assert (await rig.cache.prefetch(prompt(1), Context())).result == "hit"
    stored = await store.snapshot(prompt(1))
    assert stored is not None
    assert stored.image == rig.replica.forest.snapshot(prompt(1))


async def test_a_prefetch_of_what_only_the_store_holds_is_a_hit(
    rig: Rig, store: MemoryStore
) -> None:
    await store.put_snapshot(prompt(1), StoredSnapshot(b"x", "1-0"))
    assert (await rig.cache.prefetch(prompt(1), Context())).result == "hit"


async def test_a_removed_prompt_is_gone_everywhere(rig: Rig, store: MemoryStore) -> None:
    await store.append([appended(prompt(1), [1])])
    await caught_up(rig.replica)
    assert await rig.cache.remove(prompt(1))
    assert not await rig.cache.remove(prompt(1))
    batches = await store.read({0: START, 1: START})
    updates = [update for batch in batches for update in batch.updates]
    assert PromptRemoved(prompt(1)) in updates


# -- eviction

PROMPTS = range(10)


async def filled(store: MemoryStore, clock: ManualClock) -> int:
    """Append `PROMPTS`, one second after the other; returns the bytes their trees take."""
    replica = new_replica(store, clock)
    for number in PROMPTS:
        await store.append([appended(prompt(number), list(range(2000)))])
        clock.advance(1)
    await caught_up(replica)
    return replica.forest.memory_bytes()


async def limited(store: MemoryStore, clock: ManualClock, limit_bytes: int) -> Rig:
    """A replica that holds all of the store, owns it, and may hold ``limit_bytes``."""
    rig = new_rig(
        store,
        clock,
        memory_limit_bytes=limit_bytes,
        evict_to_fraction=0.5,
        protect_seconds=60.0,
    )
    await caught_up(rig.replica)
    await rig.keeper.renew()
    return rig


def held(rig: Rig) -> list[int]:
    return [number for number in PROMPTS if rig.replica.forest.has_prompt(prompt(number))]


async def test_up_to_the_limit_nothing_is_evicted(store: MemoryStore, clock: ManualClock) -> None:
    rig = await limited(store, clock, await filled(store, clock))
    clock.advance(61)
    await rig.keeper.renew()
    assert await rig.cache.evict() == 0


async def test_above_the_limit_the_oldest_prompts_go_everywhere(
    store: MemoryStore, clock: ManualClock
) -> None:
    memory_bytes = await filled(store, clock)
    rig = await limited(store, clock, memory_bytes - 1)
    other = await limited(store, clock, memory_bytes)
    clock.advance(61)
    await rig.keeper.renew()
    order = [int.from_bytes(key, "big") for key in rig.replica.forest.prompt_keys()]
    num_evicted = await rig.cache.evict()
    assert 0 < num_evicted < len(PROMPTS)
    assert held(rig) == sorted(order[num_evicted:])
    assert rig.replica.forest.memory_bytes() < 0.6 * memory_bytes
    assert (await rig.cache.stats()).num_evicted_prompts == num_evicted
    await caught_up(other.replica)
    assert held(other) == held(rig)


async def test_what_gained_tokens_a_moment_ago_is_not_evicted(
    store: MemoryStore, clock: ManualClock
) -> None:
    await filled(store, clock)
    rig = await limited(store, clock, 1)
    assert await rig.cache.evict() == 0
    assert held(rig) == list(PROMPTS)


async def test_a_replica_evicts_only_what_it_owns(store: MemoryStore, clock: ManualClock) -> None:
    await filled(store, clock)
    rig = await limited(store, clock, 1)
    clock.advance(61)
    rig.leases[0].take_away()
    await rig.keeper.renew()
    await rig.keeper.renew()
    assert rig.keeper.owned() == [1]
    assert await rig.cache.evict() > 0
    kept = set(held(rig))
    assert {number for number in PROMPTS if rig.replica.shard_of(prompt(number)) == 0} <= kept
    assert kept < set(PROMPTS)


async def test_owners_of_different_shards_free_the_excess_together_and_not_each(
    store: MemoryStore, clock: ManualClock
) -> None:
    memory_bytes = await filled(store, clock)
    rigs = [await limited(store, clock, memory_bytes - 1) for _ in range(2)]
    clock.advance(61)
    for shard, rig in enumerate(rigs):
        rig.leases[1 - shard].take_away()
        await rig.keeper.renew()
        await rig.keeper.renew()
    evicted = [await rig.cache.evict() for rig in rigs]
    assert 0 < sum(evicted) <= len(PROMPTS) // 2 + 2
    for rig in rigs:
        await caught_up(rig.replica)
    assert held(rigs[0]) == held(rigs[1])
    assert len(held(rigs[0])) == len(PROMPTS) - sum(evicted)


# -- life


async def test_a_started_replica_follows_and_owns_until_it_is_stopped(clock: ManualClock) -> None:
    store = MemoryStore(num_shards=2, clock=clock)
    rig = new_rig(store, clock)
    rig.cache.start()
    await store.append([appended(prompt(1), [1])])
    await until(lambda: rig.replica.forest.has_prompt(prompt(1)))
    await until(lambda: rig.keeper.owned() == [0, 1])
    assert rig.cache.is_alive()
    await rig.cache.stop()
    assert await store.snapshot(prompt(1)) is not None
    assert not any(lease.is_held for lease in rig.leases)
    await rig.cache.stop()


async def test_a_loop_that_fails_is_seen(clock: ManualClock) -> None:
    class BrokenStore(MemoryStore):
        async def floors(self) -> dict[int, str]:
            raise RuntimeError("a mistake of ours")

    rig = new_rig(BrokenStore(num_shards=1, clock=clock), clock)
    rig.cache.start()
    await until(lambda: not rig.cache.is_alive())
    await rig.cache.stop()


async def test_the_end_does_not_wait_for_a_store_that_is_away(clock: ManualClock) -> None:
    class LostStore(MemoryStore):
        async def put_snapshot(self, _prompt_key: PromptKey, _snapshot: StoredSnapshot) -> None:
            raise TreeStoreUnavailable(address="here", reason="away")

    store = LostStore(num_shards=1, clock=clock)
    rig = new_rig(store, clock)
    rig.cache.start()
    await store.append([appended(prompt(1), [1])])
    await until(lambda: rig.replica.forest.has_prompt(prompt(1)))
    await until(lambda: rig.keeper.owned() == [0])
    async with asyncio.timeout(1):
        await rig.cache.stop()
