"""The Redis log when its server is silent, gone, restarted or full, when several write at once, and
what it never shows.

What it promises on a server that works is in tests/contract/test_tree_store.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from redis.asyncio import Redis

from srt_common.errors import TreeStoreUnavailable
from srt_common.messages.tree_updates import TokensAppended, TreeUpdate
from srt_common.store.base import START, ShardBatch, StoredSnapshot, TreeStore
from srt_common.store.redis_log import RedisLogStore, connect
from support.redis_server import RedisServer
from support.replicas import appended, prompt

NUM_SHARDS = 4
CACHE = "suite"
TIMEOUT_SECONDS = 0.5


def tokens(offset: int = 0) -> TokensAppended:
    return appended(prompt(1), [5], offset=offset)


def all_from_start() -> dict[int, str]:
    return dict.fromkeys(range(NUM_SHARDS), START)


def updates_of(batches: list[ShardBatch]) -> list[TreeUpdate]:
    return [update for batch in batches for update in batch.updates]


def _every_call(store: TreeStore) -> dict[str, Callable[[], Awaitable[object]]]:
    key = prompt(1)
    return {
        "append": lambda: store.append([tokens()]),
        "heads": store.heads,
        "floors": store.floors,
        "read": lambda: store.read(all_from_start()),
        "put_snapshot": lambda: store.put_snapshot(key, StoredSnapshot(b"x", "1-0")),
        "snapshot": lambda: store.snapshot(key),
        "snapshot_keys": lambda: store.snapshot_keys(0),
        "remove_prompt": lambda: store.remove_prompt(key),
        "trim": lambda: store.trim(0, "1-0"),
    }


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that the test may hurt."""
    with RedisServer.started(max_memory_bytes=64 * 2**20) as server:
        yield server


@pytest.fixture
async def store(own_server: RedisServer) -> AsyncIterator[RedisLogStore]:
    store = RedisLogStore.from_url(
        own_server.url, cache=CACHE, num_shards=NUM_SHARDS, timeout_seconds=TIMEOUT_SECONDS
    )
    yield store
    await store.close()


@pytest.mark.parametrize("trouble", ["frozen", "stopped"])
async def test_every_call_on_a_silent_server_ends_within_the_limit(
    own_server: RedisServer, store: RedisLogStore, trouble: str
) -> None:
    await store.append([tokens()])
    own_server.freeze() if trouble == "frozen" else own_server.stop()
    for name, call in _every_call(store).items():
        started = time.monotonic()
        with pytest.raises(TreeStoreUnavailable) as caught:
            await call()
        assert time.monotonic() - started < TIMEOUT_SECONDS + 0.3, name
        assert caught.value.address.endswith("redis.sock")


async def test_a_server_that_comes_back_is_used_again_without_a_new_store(
    own_server: RedisServer, store: RedisLogStore
) -> None:
    await store.append([tokens()])
    own_server.stop()
    with pytest.raises(TreeStoreUnavailable):
        await store.append([tokens()])
    own_server.start()
    await store.append([tokens(1)])
    assert updates_of(await store.read(all_from_start())) == [tokens(1)]


async def test_a_server_that_was_restarted_between_two_calls_is_not_even_noticed(
    own_server: RedisServer, store: RedisLogStore
) -> None:
    await store.append([tokens()])
    own_server.stop()
    own_server.start()
    await store.append([tokens(1)])


async def test_a_full_server_refuses_appends_and_goes_on_serving_reads(
    own_server: RedisServer, store: RedisLogStore
) -> None:
    await store.append([tokens()])
    client = connect(own_server.url, timeout_seconds=TIMEOUT_SECONDS)
    await client.config_set("maxmemory", 1)
    with pytest.raises(TreeStoreUnavailable, match="maxmemory"):
        await store.append([tokens(1)])
    assert updates_of(await store.read(all_from_start())) == [tokens()]
    await client.aclose()


async def test_of_snapshots_that_are_written_at_once_the_newest_stays(
    own_server: RedisServer,
) -> None:
    """The log is trimmed up to it: an older one in its place would leave a hole."""
    stores = [
        RedisLogStore.from_url(own_server.url, cache=CACHE, num_shards=NUM_SHARDS) for _ in range(8)
    ]
    for number in range(5):
        key = prompt(number)
        puts = (
            store.put_snapshot(key, StoredSnapshot(b"x", f"{position}-0"))
            for position, store in enumerate(stores, start=1)
        )
        await asyncio.gather(*puts)
        held = await stores[0].snapshot(key)
        assert held is not None and held.cursor == "8-0"
    for store in stores:
        await store.close()


async def test_the_error_of_an_unreachable_server_does_not_show_its_password() -> None:
    store = RedisLogStore.from_url(
        "redis://user:sesame@127.0.0.1:1/0", cache=CACHE, num_shards=1, timeout_seconds=0.2
    )
    with pytest.raises(TreeStoreUnavailable) as caught:
        await store.heads()
    assert "sesame" not in str(caught.value)
    await store.close()


async def test_two_caches_on_one_server_do_not_see_each_other(own_server: RedisServer) -> None:
    first, second = (
        RedisLogStore.from_url(own_server.url, cache=cache, num_shards=NUM_SHARDS)
        for cache in ("one", "other")
    )
    await first.append([tokens()])
    assert await second.read(all_from_start()) == []
    await first.close()
    await second.close()


async def test_a_forgotten_cache_leaves_nothing_and_others_alone(own_server: RedisServer) -> None:
    gone, kept = (
        RedisLogStore.from_url(own_server.url, cache=cache, num_shards=NUM_SHARDS)
        for cache in ("gone", "kept")
    )
    for store in (gone, kept):
        await store.append([appended(prompt(number), [5]) for number in range(20)])
        for number in range(20):
            await store.put_snapshot(prompt(number), StoredSnapshot(b"x", "1-0"))
    await gone.forget()
    client = connect(own_server.url, timeout_seconds=TIMEOUT_SECONDS)
    assert await client.keys("*{gone:*") == []
    assert len(await client.keys("*{kept:*:snap:*")) == 20
    await gone.forget()
    await client.aclose()
    await gone.close()
    await kept.close()


@pytest.mark.parametrize(
    ("cache", "num_shards", "named"),
    [("a}b", 1, "cache is 'a}b'"), ("", 1, "cache is ''"), ("a", 0, "num_shards is 0")],
)
async def test_an_impossible_cache_is_refused(cache: str, num_shards: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RedisLogStore(Redis(), cache=cache, num_shards=num_shards)
