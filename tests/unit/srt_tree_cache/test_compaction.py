"""Compaction writes what changed and trims what that includes, for owned shards only.

The oracle of all of it: a replica that starts anew from snapshots and log equals one that saw all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt_common.errors import MessageTooLarge, TreeStoreUnavailable
from srt_common.keys import PromptKey
from srt_common.messages.tree_updates import PromptRemoved, TreeUpdate
from srt_common.store.base import START, StoredSnapshot
from srt_common.store.cursors import is_before
from srt_common.store.memory import MemoryStore
from srt_tree_cache.compaction import EARLY_GRACE_SECONDS
from srt_tree_cache.leases import SAFE_SECONDS
from srt_tree_cache.replica import Replica
from support.replicas import ManualClock, Rig, appended, new_replica, new_rig, prompt

INTERVAL = 60.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(num_shards=1, clock=clock)


@pytest.fixture
async def rig(store: MemoryStore, clock: ManualClock) -> Rig:
    """Owns the shard; keeps nothing in the log beyond what it must."""
    rig = new_rig(store, clock, snapshot_interval_seconds=INTERVAL, log_retention_seconds=0.0)
    await rig.keeper.renew()
    return rig


async def caught_up(replica: Replica) -> Replica:
    while await replica.catch_up():
        pass
    return replica


def images(replica: Replica) -> dict[PromptKey, bytes | None]:
    return {key: replica.forest.snapshot(key) for key in replica.forest.prompt_keys()}


async def test_changed_prompts_are_written_and_the_log_below_is_forgotten(
    rig: Rig, store: MemoryStore, clock: ManualClock
) -> None:
    await store.append([appended(prompt(n), [n, n]) for n in range(3)])
    await caught_up(rig.replica)
    clock.advance(1)
    await rig.compactor.compact(0)
    assert len(await store.snapshot_keys(0)) == 3
    assert await store.floors() == await store.heads()
    assert images(await caught_up(new_replica(store, clock))) == images(rig.replica)
    assert len(rig.replica.changes[0]) == 0


async def test_what_a_full_forest_dropped_stays_in_the_snapshot(
    store: MemoryStore, clock: ManualClock
) -> None:
    """What is held of the prompt afterwards knows less than what is stored."""
    rig = new_rig(store, clock, max_bytes=2**20, log_retention_seconds=0.0)
    await rig.keeper.renew()
    tokens = list(range(110))
    await store.append([appended(prompt(0), tokens[:100])])
    await caught_up(rig.replica)
    clock.advance(1)
    await rig.compactor.compact(0)
    number = 0
    while rig.replica.forest.has_prompt(prompt(0)):
        number += 1
        await store.append([appended(prompt(number), list(range(2000)))])
        await caught_up(rig.replica)
    await store.append([appended(prompt(0), tokens[100:], offset=100)])
    await caught_up(rig.replica)
    assert token_ids(rig.replica, prompt(0)) == tokens[100:]
    clock.advance(1)
    await rig.compactor.compact(0)
    assert token_ids(await caught_up(new_replica(store, clock)), prompt(0)) == tokens


def token_ids(replica: Replica, key: PromptKey) -> list[int]:
    held = replica.forest.sequence_tokens(key, 1)
    return [] if held is None else held.tolist()


async def test_the_least_useful_rollouts_beyond_the_limit_are_left_out(
    store: MemoryStore, clock: ManualClock
) -> None:
    rig = new_rig(store, clock, log_retention_seconds=0.0, rollouts_per_prompt=2)
    await rig.keeper.renew()
    key = prompt(0)
    await store.append([appended(key, [n, n, n], sequence_id=n) for n in range(4)])
    await caught_up(rig.replica)
    for sequence_id in (1, 3):
        rig.replica.forest.mark_used(key, sequence_id, np.asarray([1], np.int32))
    await rig.compactor.compact(0)
    started_anew = await caught_up(new_replica(store, clock))
    held = [n for n in range(4) if started_anew.forest.sequence_tokens(key, n) is not None]
    assert held == [1, 3]


async def test_what_did_not_change_is_not_written_again(
    rig: Rig, store: MemoryStore, clock: ManualClock
) -> None:
    await store.append([appended(prompt(n), [n]) for n in range(3)])
    await caught_up(rig.replica)
    await rig.compactor.compact(0)
    await store.append([appended(prompt(1), [9], offset=1)])
    await caught_up(rig.replica)
    await rig.compactor.compact(0)
    assert rig.compactor.num_snapshots == 4


async def test_entries_not_applied_here_stay_in_the_log(
    rig: Rig, store: MemoryStore, clock: ManualClock
) -> None:
    await store.append([appended(prompt(1), [1])])
    await caught_up(rig.replica)
    clock.advance(1)
    await store.append([appended(prompt(1), [2], offset=1)])
    clock.advance(1)
    await rig.compactor.compact(0)
    floor, head = (await store.floors())[0], (await store.heads())[0]
    assert is_before(floor, head)
    assert images(await caught_up(new_replica(store, clock))) == images(
        await caught_up(rig.replica)
    )


async def test_young_entries_stay_for_slow_readers(store: MemoryStore, clock: ManualClock) -> None:
    rig = new_rig(store, clock, log_retention_seconds=30.0)
    await rig.keeper.renew()
    await store.append([appended(prompt(1), [1])])
    old = (await store.heads())[0]
    clock.advance(20)
    await store.append([appended(prompt(1), [2], offset=1)])
    await caught_up(rig.replica)
    clock.advance(15)
    await rig.keeper.renew()
    await rig.keeper.renew()
    await rig.compactor.compact(0)
    floor = (await store.floors())[0]
    assert not is_before(floor, old)
    assert is_before(floor, (await store.heads())[0])


async def test_entries_that_wait_for_others_stay_until_these_can_no_longer_come(
    rig: Rig, store: MemoryStore, clock: ManualClock
) -> None:
    key = prompt(1)
    await store.append([appended(key, [3, 4], offset=2)])
    await caught_up(rig.replica)
    clock.advance(1)
    await rig.keeper.renew()
    await rig.compactor.compact(0)
    await store.append([appended(key, [1, 2])])
    late = new_replica(store, clock)
    assert images(await caught_up(late)) == images(await caught_up(rig.replica))
    held = late.forest.sequence_tokens(key, 1)
    assert held is not None
    assert held.tolist() == [1, 2, 3, 4]
    await store.append([appended(key, [9], offset=20)])
    await caught_up(rig.replica)
    clock.advance(EARLY_GRACE_SECONDS + 1)
    await rig.keeper.renew()
    await rig.keeper.renew()
    await rig.compactor.compact(0)
    assert await store.floors() == await store.heads()


async def test_a_shard_is_due_after_its_interval_or_after_many_bytes(
    store: MemoryStore, clock: ManualClock
) -> None:
    rig = new_rig(store, clock, snapshot_interval_seconds=5.0, snapshot_after_bytes=300)
    await rig.keeper.renew()
    assert rig.compactor.due() == []
    await store.append([appended(prompt(1), [1] * 100)])
    await caught_up(rig.replica)
    assert rig.compactor.due() == [0]
    await rig.compactor.compact(0)
    assert rig.compactor.due() == []
    clock.advance(5)
    assert rig.compactor.due() == [0]
    rig.leases[0].take_away()
    await rig.keeper.renew()
    assert rig.compactor.due() == []


async def test_without_the_lease_nothing_is_written_or_trimmed(
    store: MemoryStore, clock: ManualClock
) -> None:
    rig = new_rig(store, clock, log_retention_seconds=0.0)
    await store.append([appended(prompt(1), [1])])
    await caught_up(rig.replica)
    clock.advance(1)
    await rig.compactor.compact(0)
    assert await store.snapshot_keys(0) == []
    assert await store.floors() == {0: START}


class InterruptedStore(MemoryStore):
    """Something happens after the first snapshot that is put."""

    then: Callable[[], Awaitable[None]] | None = None

    async def put_snapshot(self, prompt_key: PromptKey, snapshot: StoredSnapshot) -> None:
        await super().put_snapshot(prompt_key, snapshot)
        if self.then is not None:
            await self.then()


async def test_a_lease_that_runs_out_in_the_middle_stops_compaction_at_once(
    clock: ManualClock,
) -> None:
    store = InterruptedStore(num_shards=1, clock=clock)
    rig = new_rig(store, clock, log_retention_seconds=0.0)
    await rig.keeper.renew()
    await store.append([appended(prompt(n), [n]) for n in range(3)])
    await caught_up(rig.replica)

    async def too_late() -> None:
        clock.advance(SAFE_SECONDS)

    store.then = too_late
    await rig.compactor.compact(0)
    assert len(await store.snapshot_keys(0)) == 1
    assert await store.floors() == {0: START}
    assert len(rig.replica.changes[0]) == 2


async def test_a_lease_that_runs_out_before_the_trim_leaves_the_log_whole(
    clock: ManualClock,
) -> None:
    store = InterruptedStore(num_shards=1, clock=clock)
    rig = new_rig(store, clock, log_retention_seconds=0.0)
    await rig.keeper.renew()
    await store.append([appended(prompt(1), [1])])
    await caught_up(rig.replica)

    async def too_late() -> None:
        clock.advance(SAFE_SECONDS)

    store.then = too_late
    await rig.compactor.compact(0)
    assert await store.snapshot_keys(0) == [prompt(1)]
    assert await store.floors() == {0: START}


async def test_what_arrives_while_a_snapshot_is_written_is_in_the_next_one(
    clock: ManualClock,
) -> None:
    store = InterruptedStore(num_shards=1, clock=clock)
    rig = new_rig(store, clock, log_retention_seconds=0.0)
    await rig.keeper.renew()
    await store.append([appended(prompt(1), [1])])
    await caught_up(rig.replica)

    async def more_arrives() -> None:
        store.then = None
        clock.advance(1)
        await store.append([appended(prompt(1), [2], offset=1)])
        await caught_up(rig.replica)

    store.then = more_arrives
    await rig.compactor.compact(0)
    assert rig.replica.changes[0].prompt_keys() == [prompt(1)]
    await rig.compactor.compact(0)
    stored = await store.snapshot(prompt(1))
    assert stored is not None
    assert stored.image == rig.replica.forest.snapshot(prompt(1))


async def test_a_store_that_fails_in_the_middle_leaves_the_log_whole(clock: ManualClock) -> None:
    store = InterruptedStore(num_shards=1, clock=clock)
    rig = new_rig(store, clock, log_retention_seconds=0.0)
    await rig.keeper.renew()
    await store.append([appended(prompt(n), [n]) for n in range(3)])
    await caught_up(rig.replica)

    async def fail() -> None:
        raise TreeStoreUnavailable(address="here", reason="away")

    store.then = fail
    with pytest.raises(TreeStoreUnavailable):
        await rig.compactor.compact(0)
    assert await store.floors() == {0: START}
    store.then = None
    await rig.compactor.compact(0)
    assert images(await caught_up(new_replica(store, clock))) == images(rig.replica)


async def test_a_tree_too_large_for_a_snapshot_does_not_stop_the_others(
    clock: ManualClock,
) -> None:
    class SmallStore(MemoryStore):
        async def put_snapshot(self, prompt_key: PromptKey, snapshot: StoredSnapshot) -> None:
            if prompt_key == prompt(1):
                raise MessageTooLarge(channel="tree snapshot", reason="too large")
            await super().put_snapshot(prompt_key, snapshot)

    store = SmallStore(num_shards=1, clock=clock)
    rig = new_rig(store, clock, log_retention_seconds=0.0)
    await rig.keeper.renew()
    await store.append([appended(prompt(n), [n]) for n in range(3)])
    await caught_up(rig.replica)
    clock.advance(1)
    await rig.compactor.compact(0)
    assert set(await store.snapshot_keys(0)) == {prompt(0), prompt(2)}
    assert await store.floors() == await store.heads()


async def test_a_prompt_dropped_meanwhile_needs_no_snapshot(
    rig: Rig, store: MemoryStore, clock: ManualClock
) -> None:
    await store.append([appended(prompt(1), [1])])
    await caught_up(rig.replica)
    rig.replica.forest.remove_prompt(prompt(1))
    await rig.compactor.compact(0)
    assert await store.snapshot_keys(0) == []
    assert len(rig.replica.changes[0]) == 0


async def test_a_replica_that_takes_over_does_not_repeat_what_the_former_owner_wrote(
    rig: Rig, store: MemoryStore, clock: ManualClock
) -> None:
    second = new_rig(store, clock, snapshot_interval_seconds=INTERVAL)
    await store.append([appended(prompt(n), [n]) for n in range(3)])
    await caught_up(rig.replica)
    await caught_up(second.replica)
    clock.advance(1)
    await rig.compactor.compact(0)
    await second.compactor.settle_trimmed()
    assert len(second.replica.changes[0]) == 3, "asked once an interval only"
    clock.advance(INTERVAL)
    await second.compactor.settle_trimmed()
    assert len(second.replica.changes[0]) == 0


async def test_a_snapshot_on_demand_is_written_only_when_something_changed(
    rig: Rig, store: MemoryStore
) -> None:
    assert not await rig.compactor.write_snapshot(prompt(1))
    await store.append([appended(prompt(1), [1])])
    await caught_up(rig.replica)
    assert await rig.compactor.write_snapshot(prompt(1))
    assert await rig.compactor.write_snapshot(prompt(1))
    assert rig.compactor.num_snapshots == 1


async def test_a_replica_that_is_behind_brings_no_removed_prompt_back(
    rig: Rig, store: MemoryStore, clock: ManualClock
) -> None:
    behind = new_rig(store, clock)
    await store.append([appended(prompt(1), [1])])
    await caught_up(behind.replica)
    await store.append([PromptRemoved(prompt(1))])
    await caught_up(rig.replica)
    clock.advance(1)
    await rig.compactor.compact(0)
    await behind.compactor.write_snapshot(prompt(1))
    assert images(await caught_up(new_replica(store, clock))) == {}


async def test_a_store_that_lost_its_memory_gets_everything_back(
    rig: Rig, store: MemoryStore, clock: ManualClock
) -> None:
    await store.append([appended(prompt(n), [n]) for n in range(3)])
    await caught_up(rig.replica)
    clock.advance(1)
    await rig.compactor.compact(0)
    before = images(rig.replica)
    await store.wipe()
    await caught_up(rig.replica)
    await rig.compactor.compact(0)
    assert images(await caught_up(new_replica(store, clock))) == before
    assert len(rig.replica.changes[0]) == 0


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3)),
        st.tuples(st.just("remove"), st.integers(0, 3)),
        st.tuples(st.sampled_from(["catch up", "compact", "restart"]), st.integers(0, 1)),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(ACTIONS)
async def test_whatever_happened_a_new_replica_equals_one_that_read_the_whole_log(
    actions: list[tuple[str, int]],
) -> None:
    clock = ManualClock()
    store = MemoryStore(num_shards=1, clock=clock)
    rigs = [new_rig(store, clock, log_retention_seconds=0.0) for _ in range(2)]
    witness = new_replica(MemoryStore(num_shards=1, clock=clock), clock)
    for number, (action, which) in enumerate(actions):
        clock.advance(0.5)
        update: TreeUpdate
        if action in {"append", "remove"}:
            key = prompt(which)
            update = (
                appended(key, [number, which], sequence_id=number)
                if action == "append"
                else PromptRemoved(key)
            )
            await store.append([update])
            await witness.store.append([update])
        elif action == "catch up":
            await rigs[which].replica.catch_up()
        elif action == "compact":
            await rigs[which].keeper.renew()
            await rigs[which].keeper.renew()
            await rigs[which].compactor.compact(0)
        else:
            rigs[which] = new_rig(store, clock, log_retention_seconds=0.0)
    expected = images(await caught_up(witness))
    for replica in (rigs[0].replica, rigs[1].replica, new_replica(store, clock)):
        assert images(await caught_up(replica)) == expected
