"""Shares one engine's trees: a thread with its own event loop and its own connection.

* Publishes what this engine's rollouts sampled every few milliseconds; applies other engines'
  updates, and snapshots, in slices, so that no decoding step waits longer than a slice.
* Decoding never waits for this thread. When the store is away, updates wait in the forest's bounded
  outbox and the engine drafts from what it has.
* A restarted engine is warm again: it loads the snapshots of every shard, the learned tables among
  them, then follows the log.
* A snapshot that is fetched late ends before the position this reader has come to; the log is read
  again from there, as entries in between found no tree to enter.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, Protocol, Self

import msgspec
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from srt_common.cancellation import cancel_and_wait
from srt_common.errors import TreeError, TreeStoreError, TreeStoreUnavailable
from srt_common.keys import PromptKey, shard_of
from srt_common.messages.tree_updates import (
    PromptRemoved,
    TokensAppended,
    TokensUsed,
    TreeUpdate,
)
from srt_common.store.base import START, ShardBatch, StoredSnapshot, TreeStore
from srt_common.store.cursors import appended_at_unix, parse_cursor
from srt_common.store.redis_log import RedisLogStore
from srt_common.telemetry import names
from srt_common.tree import LEARNED_KEY, PromptForest, Update

_LOG = logging.getLogger(__name__)
_PROPAGATOR = TraceContextTextMapPropagator()

DRAIN_TOKENS = 32_768
"""Most own tokens published at once."""
BLOCK_SECONDS = 1.0
GATHER_SECONDS = 0.02
"""Between reads: what arrives meanwhile is read at once, for a reading costs more than its news."""
LEARNED_SECONDS = 60.0
"""Between exchanges of the learned tables."""
RETRY_SECONDS = 0.5
STOP_SECONDS = 2.0


class SyncSettings(Protocol):
    """What sharing needs to know; `DrafterSettings` has it."""

    @property
    def cache_url(self) -> str | None: ...
    @property
    def cache_id(self) -> str: ...
    @property
    def num_shards(self) -> int: ...
    @property
    def flush_interval_seconds(self) -> float: ...
    @property
    def apply_slice_tokens(self) -> int: ...


class TreeSync:
    """Between a forest and a tree store. `start` and `stop` are for the engine's thread."""

    def __init__(
        self,
        forest: PromptForest,
        make_store: Callable[[], TreeStore],
        *,
        flush_interval_seconds: float,
        apply_slice_tokens: int,
    ) -> None:
        self._forest = forest
        self._make_store = make_store
        self._flush_interval_seconds = flush_interval_seconds
        self._apply_slice_tokens = apply_slice_tokens
        self._tracer = trace.get_tracer("srt_rollout.tree_sync")
        self._thread = threading.Thread(target=self._run, name="srt-tree-sync", daemon=True)
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        """Made here, so that what is asked of it before the thread runs is not lost."""
        self._stopping = asyncio.Event()
        self._rewinds: dict[int, str] = {}
        """By shard: from where the log is to be read again."""
        self._counts = {"published": 0, "applied": 0, "rejected": 0, "unavailable": 0, "gaps": 0}
        self._lag_seconds = 0.0
        self._is_warm = False

    @classmethod
    def of(cls, forest: PromptForest, settings: SyncSettings) -> Self:
        """Share through the Redis log that the settings name."""

        def make_store() -> TreeStore:
            assert settings.cache_url is not None
            return RedisLogStore.from_url(
                settings.cache_url, cache=settings.cache_id, num_shards=settings.num_shards
            )

        return cls(
            forest,
            make_store,
            flush_interval_seconds=settings.flush_interval_seconds,
            apply_slice_tokens=settings.apply_slice_tokens,
        )

    def start(self) -> None:
        """Begin to share. Raises ValueError for a store that cannot be named so."""
        self._store = self._make_store()
        self._thread.start()

    def stop(self) -> None:
        """Publish what is left, then end the thread; gives up after `STOP_SECONDS`."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # the thread has just ended, and its loop with it
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(STOP_SECONDS)

    def want(self, prompt_key: PromptKey, traceparent: str | None) -> None:
        """Fetch the snapshot of a prompt this engine holds nothing of, without waiting for it."""
        if self._thread.is_alive() and not self._forest.has_prompt(prompt_key):
            self._begin(self._fetch(prompt_key, traceparent))

    def stats(self) -> dict[str, int | float | bool]:
        """Tokens published, updates applied and rejected, failures, lag of the newest entry read;
        whether the thread lives, and has loaded what was there when it began.
        """
        return {
            **self._counts,
            "lag_seconds": self._lag_seconds,
            "is_warm": self._is_warm,
            "is_sharing": self._thread.is_alive(),
        }

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the thread's loop; a loop that has ended costs only the work."""
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()

    # -- in the thread
    def _run(self) -> None:
        with self._runner as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        """Until `stop`; an error that nobody foresaw ends all sharing, seen and at once."""
        try:
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(self._follow())
                tasks.create_task(self._publish())
                tasks.create_task(self._keep_learned())
                await self._stopping.wait()
                await cancel_and_wait([following])
        finally:
            await self._store.close()

    async def _publish(self) -> None:
        """Send what rows appended, in order; a batch that could not be sent is sent again."""
        pending: list[TreeUpdate] = []
        while True:
            is_last = self._stopping.is_set()
            pending = pending or self._drain()
            if pending and not await self._append(pending):
                if is_last:
                    return
                await self._pause(RETRY_SECONDS)
                continue
            pending = []
            if is_last:
                return
            await self._pause(self._flush_interval_seconds)

    async def _append(self, updates: Sequence[TreeUpdate]) -> bool:
        try:
            await self._store.append(updates)
        except TreeStoreUnavailable:
            self._counts["unavailable"] += 1
            return False
        appended = (u for u in updates if isinstance(u, TokensAppended))
        self._counts["published"] += sum(len(update.tokens) // 3 for update in appended)
        return True

    def _drain(self) -> list[TreeUpdate]:
        updates: list[TreeUpdate] = [
            TokensAppended(*update) for update in self._forest.drain(DRAIN_TOKENS)
        ]
        updates += [
            TokensUsed(key, sequence_id, offsets.tolist())
            for key, sequence_id, offsets in self._forest.drain_used()
        ]
        return updates

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until `stop` is called."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _follow(self) -> None:
        """Load every snapshot, then apply the log for ever."""
        cursors: dict[int, str] = {}
        stale = set(range(self._store.num_shards))
        while True:
            try:
                cursors = cursors or await self._store.floors()
                while stale:
                    await self._load_shard(min(stale))
                    stale.remove(min(stale))
                self._is_warm = True
                self._rewind(cursors)
                for batch in await self._store.read(cursors, block_seconds=BLOCK_SECONDS):
                    await self._apply(batch)
                    cursors[batch.shard] = batch.cursor
            except TreeStoreError:
                self._counts["unavailable"] += 1
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await asyncio.sleep(GATHER_SECONDS)

    def _rewind(self, cursors: dict[int, str]) -> None:
        """Go back to where a snapshot ended that was fetched meanwhile."""
        rewinds, self._rewinds = self._rewinds, {}
        for shard, cursor in rewinds.items():
            cursors[shard] = min(cursors[shard], cursor, key=parse_cursor)

    async def _keep_learned(self) -> None:
        """Exchange what drafting has taught, now and then and at the end."""
        while not self._stopping.is_set():
            await self._pause(LEARNED_SECONDS)
            try:
                await self._exchange_learned()
            except TreeStoreError:
                self._counts["unavailable"] += 1

    async def _exchange_learned(self) -> None:
        """Merge the tables that others left, and leave ours for them and for the next start."""
        held = await self._store.snapshot(LEARNED_KEY)
        if held is not None:
            await self._load(held.image)
        image = self._forest.snapshot(LEARNED_KEY)
        if image is not None:
            heads = await self._store.heads()
            cursor = heads[shard_of(LEARNED_KEY, self._store.num_shards)]
            await self._store.put_snapshot(LEARNED_KEY, StoredSnapshot(image, cursor))

    async def _load_shard(self, shard: int) -> None:
        for key in await self._store.snapshot_keys(shard):
            snapshot = await self._store.snapshot(key)
            if snapshot is not None:
                await self._load(snapshot.image)

    async def _apply(self, batch: ShardBatch) -> None:
        """Apply a shard's news in its order. What was trimmed before them comes first, from
        snapshots: the forest lets only so many tokens wait for the ones before them.

        Raises TreeStoreError.
        """
        if batch.has_gap:
            self._counts["gaps"] += 1
            await self._load_shard(batch.shard)
        self._counts["rejected"] += batch.num_rejected
        if batch.cursor != START:
            self._lag_seconds = max(0.0, time.time() - appended_at_unix(batch.cursor))
        for is_append, group in groupby(batch.updates, lambda it: isinstance(it, TokensAppended)):
            if is_append:
                await self._extend([msgspec.structs.astuple(update) for update in group])
                continue
            for update in group:
                if isinstance(update, PromptRemoved):
                    self._forest.remove_prompt(PromptKey(update.prompt_key))

    async def _extend(self, updates: Sequence[Update]) -> None:
        """Append in slices, letting the publisher and the decoding steps in between them."""
        while updates:
            taken = self._forest.apply(updates, self._apply_slice_tokens)
            self._counts["applied"] += taken
            updates = updates[taken:]
            await asyncio.sleep(0)

    async def _fetch(self, prompt_key: PromptKey, traceparent: str | None) -> None:
        context = _PROPAGATOR.extract({"traceparent": traceparent} if traceparent else {})
        with self._tracer.start_as_current_span(names.SPAN_TREE_SNAPSHOT, context=context) as span:
            span.set_attribute(names.ATTR_PROMPT_KEY, prompt_key.hex())
            shard = shard_of(prompt_key, self._store.num_shards)
            try:
                floor = (await self._store.floors())[shard]
                snapshot = await self._store.snapshot(prompt_key)
            except TreeStoreUnavailable:
                self._counts["unavailable"] += 1
                span.set_attribute(names.ATTR_CACHE_RESULT, "unavailable")
                return
            span.set_attribute(names.ATTR_CACHE_RESULT, "miss" if snapshot is None else "hit")
            if snapshot is not None:
                await self._load(snapshot.image)
                end = max(floor, snapshot.cursor, key=parse_cursor)
                self._rewinds[shard] = min(end, self._rewinds.get(shard, end), key=parse_cursor)

    async def _load(self, image: bytes) -> None:
        """Merge a snapshot in slices, as `_extend` does with the log."""
        try:
            for _ in self._forest.load_snapshot_in_parts(image, self._apply_slice_tokens):
                await asyncio.sleep(0)
        except TreeError as error:
            self._counts["rejected"] += 1
            _LOG.warning("snapshot refused: %s", error)
