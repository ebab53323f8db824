"""Engines share what they sample through a real server. Promises 2, 3 and 4 at the sync thread:
tokens of one engine are drafted from on another, a server that goes away costs nothing but speed, a
restarted engine is warm again from snapshot and log, and a removed prompt is gone everywhere.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from srt_common.keys import PromptKey, engine_id, prompt_key, shard_of
from srt_common.store.base import START, StoredSnapshot
from srt_common.store.memory import MemoryStore
from srt_common.store.redis_log import RedisLogStore
from srt_common.tree import LANE_POLICY, LEARNED_KEY, MODE_SAMPLED, PromptForest
from srt_rollout.tree_sync import TreeSync
from support.redis_server import RedisServer
from support.replicas import appended

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]

NUM_SHARDS = 4
NO_OVERLAP: FloatArray = np.zeros(0, dtype=np.float32)
PROMPT = np.array([5, 6, 7], dtype=np.int32)
KEY = prompt_key(b"secret", b"tokenizer", token_ids=PROMPT.tolist())


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer.started() as server:
        yield server


class Engine:
    """A forest with its sync thread, and one row that samples what it is told to."""

    def __init__(self, name: str, server: RedisServer, *, is_started: bool = True) -> None:
        self._server = server
        self.forest = PromptForest(engine_id=engine_id(name), max_bytes=2**26, seed=0)
        self.sync = TreeSync(
            self.forest, self._store, flush_interval_seconds=0.01, apply_slice_tokens=64
        )
        if is_started:
            self.sync.start()

    def _store(self) -> RedisLogStore:
        return RedisLogStore.from_url(self._server.url, cache="test", num_shards=NUM_SHARDS)

    def sample(self, tokens: list[int], sequence_id: int, overlap: float | None = None) -> None:
        """``overlap``: also verify a draft, of which that much agrees with the policy."""
        row = self.forest.open_row(
            KEY,
            PROMPT,
            np.zeros(0, dtype=np.int32),
            sequence_id=sequence_id,
            policy_version=3,
            lane=LANE_POLICY,
            mode=MODE_SAMPLED,
            max_new_tokens=0,
            stop_token_ids=np.zeros(0, dtype=np.int32),
        )
        new = np.array(tokens, dtype=np.int32)
        draft = self._step(row, new)
        if overlap is not None:
            assert len(draft) > 0
            accepted = np.full(len(draft), overlap, dtype=np.float32)
            self._step(row, draft[:1], num_verified=len(draft), overlap=accepted)
        self.forest.close_row(row)

    def _step(
        self,
        row: int,
        new: IntArray,
        *,
        num_verified: int = 0,
        overlap: FloatArray = NO_OVERLAP,
    ) -> IntArray:
        """What is drafted once the row has sampled ``new``."""
        none = np.zeros(0, dtype=np.int32)
        drafts = self.forest.step(
            np.array([row], dtype=np.uint64),
            np.array([0, len(new)], dtype=np.int32),
            new,
            np.array([num_verified], dtype=np.int32),
            overlap,
            none,
            none,
            np.zeros(0, dtype=np.float32),
            np.full(1, 4, dtype=np.int32),
            0.0,
        )
        return drafts.token_ids

    def holds(self, sequence_id: int) -> list[int] | None:
        return tokens_of(self.forest, sequence_id)


def tokens_of(forest: PromptForest, sequence_id: int) -> list[int] | None:
    tokens = forest.sequence_tokens(KEY, sequence_id)
    return None if tokens is None else tokens.tolist()


@pytest.fixture
def start(server: RedisServer) -> Iterator[Callable[[str], Engine]]:
    engines: list[Engine] = []

    def start(name: str) -> Engine:
        engines.append(Engine(name, server))
        return engines[-1]

    yield start
    for engine in engines:
        engine.sync.stop()


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_one_engine_samples_another_holds(start: Callable[[str], Engine]) -> None:
    first, second = start("first"), start("second")
    first.sample([1, 2, 3, 4], sequence_id=11)
    second.sample([1, 2, 9], sequence_id=22)
    eventually(lambda: first.holds(22) == [1, 2, 9] and second.holds(11) == [1, 2, 3, 4])
    assert first.forest.snapshot(KEY) == second.forest.snapshot(KEY)


def test_a_restarted_engine_knows_how_far_to_trust_its_trees(
    start: Callable[[str], Engine],
) -> None:
    first = start("first")
    eventually(lambda: bool(first.sync.stats()["is_warm"]))
    first.sample([1, 2, 3, 4], sequence_id=11)
    for sequence_id in range(20, 30):
        first.sample([1, 2], sequence_id=sequence_id, overlap=0.25)
    learned = first.forest.snapshot(LEARNED_KEY)
    assert learned is not None
    first.sync.stop()
    second = start("second")
    eventually(lambda: second.forest.snapshot(LEARNED_KEY) == learned)


def test_a_server_that_goes_away_delays_updates_and_loses_none(
    server: RedisServer, start: Callable[[str], Engine]
) -> None:
    first, second = start("first"), start("second")
    first.sample([1, 2], sequence_id=1)
    eventually(lambda: second.holds(1) is not None)
    server.stop()
    first.sample([3, 4], sequence_id=2)
    eventually(lambda: int(first.sync.stats()["unavailable"]) > 0)
    assert second.holds(2) is None
    server.start()
    eventually(lambda: second.holds(2) == [3, 4])


def test_a_restarted_engine_is_warm_from_snapshot_and_log(
    server: RedisServer, start: Callable[[str], Engine]
) -> None:
    first = start("first")
    first.sample([1, 2, 3], sequence_id=1)
    first.sync.stop()

    async def compact() -> None:
        store = RedisLogStore.from_url(server.url, cache="test", num_shards=NUM_SHARDS)
        shard = shard_of(KEY, NUM_SHARDS)
        head = (await store.heads())[shard]
        image = first.forest.snapshot(KEY)
        assert image is not None
        await store.put_snapshot(KEY, StoredSnapshot(image, head))
        await store.trim(shard, head)
        await store.close()

    asyncio.run(compact())
    second = start("second")
    second.sample([4, 5], sequence_id=2)
    restarted = start("first")
    eventually(lambda: restarted.holds(1) == [1, 2, 3] and restarted.holds(2) == [4, 5])
    assert restarted.sync.stats()["is_warm"]


def test_a_removed_prompt_is_gone_from_every_engine(
    server: RedisServer, start: Callable[[str], Engine]
) -> None:
    first, second = start("first"), start("second")
    first.sample([1, 2, 3], sequence_id=1)
    eventually(lambda: second.holds(1) is not None)

    async def remove() -> None:
        store = RedisLogStore.from_url(server.url, cache="test", num_shards=NUM_SHARDS)
        await store.remove_prompt(KEY)
        await store.close()

    asyncio.run(remove())
    eventually(lambda: first.holds(1) is None and second.holds(1) is None)


def test_stopping_publishes_what_is_left(start: Callable[[str], Engine]) -> None:
    first, second = start("first"), start("second")
    first.sample(list(range(500)), sequence_id=1)
    first.sync.stop()
    eventually(lambda: second.holds(1) == list(range(500)))


def test_what_is_left_is_published_however_soon_after_its_start_the_thread_is_stopped(
    server: RedisServer, start: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when making its loop takes the thread a while."""
    make_loop = asyncio.events.new_event_loop

    def make_slowly() -> asyncio.AbstractEventLoop:
        time.sleep(0.3)
        return make_loop()

    other = start("other")
    engine = Engine("early", server, is_started=False)
    engine.sample([1, 2, 3], sequence_id=1)
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.events, "new_event_loop", make_slowly)
        engine.sync.start()
        engine.sync.stop()
        engine.sample([4], sequence_id=2)
        eventually(lambda: other.holds(1) == [1, 2, 3])
        time.sleep(0.3)
    assert other.holds(2) is None


class FellBehind(MemoryStore):
    """As a reader sees it that had loaded everything when there was nothing."""

    def __init__(self) -> None:
        super().__init__(num_shards=1)
        self._was_asked = False

    async def floors(self) -> dict[int, str]:
        return {0: START}

    async def snapshot_keys(self, shard: int) -> list[PromptKey]:
        was_asked, self._was_asked = self._was_asked, True
        return await super().snapshot_keys(shard) if was_asked else []


class Broken(MemoryStore):
    """Fails as no store should."""

    async def floors(self) -> dict[int, str]:
        raise LookupError("no such floor")


def test_an_error_nobody_foresaw_ends_sharing_and_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_value))
    forest = PromptForest(engine_id=9, max_bytes=2**26, seed=0)
    sync = TreeSync(
        forest, lambda: Broken(num_shards=1), flush_interval_seconds=0.01, apply_slice_tokens=64
    )
    sync.start()
    eventually(lambda: not sync.stats()["is_sharing"])
    sync.want(KEY, None)
    sync.stop()
    (error,) = seen
    assert isinstance(error, ExceptionGroup)
    assert error.subgroup(LookupError) is not None


def test_behind_the_log_snapshots_come_before_the_news() -> None:
    """Ten tokens that go on with a snapshot; only four may wait for the ones before them."""
    store = FellBehind()
    whole = list(range(20))

    async def fill() -> None:
        await store.append([appended(KEY, whole[:10], sequence_id=7)])
        head = (await store.heads())[0]
        await store.put_snapshot(KEY, StoredSnapshot(image_of(whole[:10]), head))
        await store.trim(0, head)
        await store.append([appended(KEY, whole[10:], sequence_id=7, offset=10)])

    asyncio.run(fill())
    forest = PromptForest(engine_id=9, max_bytes=2**26, seed=0, max_early_tokens=4)
    sync = TreeSync(forest, lambda: store, flush_interval_seconds=0.01, apply_slice_tokens=64)
    sync.start()
    try:
        eventually(lambda: int(sync.stats()["applied"]) == 1)
        eventually(lambda: tokens_of(forest, 7) == whole)
    finally:
        sync.stop()


def test_a_late_snapshot_is_completed_from_the_log(
    server: RedisServer, start: Callable[[str], Engine]
) -> None:
    """An engine that dropped a prompt has read on; the snapshot ends before it got there."""
    engine = start("first")

    async def publish() -> None:
        store = RedisLogStore.from_url(server.url, cache="test", num_shards=NUM_SHARDS)
        await store.append([appended(KEY, [1, 2], sequence_id=7)])
        head = (await store.heads())[shard_of(KEY, NUM_SHARDS)]
        await store.put_snapshot(KEY, StoredSnapshot(image_of([1, 2]), head))
        await store.append([appended(KEY, [3, 4], sequence_id=7, offset=2)])
        await store.close()

    asyncio.run(publish())
    eventually(lambda: engine.holds(7) == [1, 2, 3, 4])
    engine.forest.remove_prompt(KEY)
    engine.sync.want(KEY, None)
    eventually(lambda: engine.holds(7) == [1, 2, 3, 4])


def image_of(token_ids: list[int]) -> bytes:
    """Snapshot of a tree that holds sequence 7."""
    forest = PromptForest(engine_id=7, max_bytes=2**26, seed=0)
    forest.apply([msgspec.structs.astuple(appended(KEY, token_ids, sequence_id=7))], 100)
    image = forest.snapshot(KEY)
    assert image is not None
    return image


def test_a_wanted_prompt_is_fetched_from_its_snapshot(
    server: RedisServer, start: Callable[[str], Engine]
) -> None:
    engine = start("first")
    eventually(lambda: bool(engine.sync.stats()["is_warm"]))

    async def put() -> None:
        store = RedisLogStore.from_url(server.url, cache="test", num_shards=NUM_SHARDS)
        await store.put_snapshot(KEY, StoredSnapshot(image_of([1, 2]), "0-0"))
        await store.close()

    asyncio.run(put())
    engine.sync.want(PromptKey(KEY), None)
    eventually(lambda: engine.holds(7) == [1, 2])


def test_decoding_goes_on_while_the_server_is_frozen(
    server: RedisServer, start: Callable[[str], Engine]
) -> None:
    first, second = start("first"), start("second")
    first.sample([1, 2, 3], sequence_id=1)
    eventually(lambda: second.holds(1) is not None)
    server.freeze()
    try:
        for sequence_id in range(2, 200):
            first.sample([1, 2, 3], sequence_id=sequence_id)
        assert first.holds(199) == [1, 2, 3]
        assert second.holds(2) is None
    finally:
        server.thaw()
    eventually(lambda: second.holds(199) == [1, 2, 3])
