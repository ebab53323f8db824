"""Spans and metrics around any tree store; the stores themselves know nothing of them.

* A span for a prompt's snapshot, which a rollout's trace then shows; appends and reads happen many
  times a second and are metrics only.
* Errors are counted and passed on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace

from srt_common.errors import TreeStoreError
from srt_common.keys import PromptKey
from srt_common.messages.tree_updates import TreeUpdate
from srt_common.store.base import ShardBatch, StoredSnapshot, TreeStore
from srt_common.telemetry import names
from srt_common.telemetry.instruments import StoreInstruments


class TracedStore:
    """A `TreeStore` that reports what it does."""

    def __init__(
        self, inner: TreeStore, *, tracer: trace.Tracer, instruments: StoreInstruments
    ) -> None:
        self._inner = inner
        self._tracer = tracer
        self._instruments = instruments

    @property
    def num_shards(self) -> int:
        """Fixed for the life of a cache."""
        return self._inner.num_shards

    async def append(self, updates: Sequence[TreeUpdate]) -> None:
        """Publish updates; how long it took is recorded also when it failed."""
        started = time.monotonic()
        try:
            with self._counted():
                await self._inner.append(updates)
        finally:
            self._instruments.append_duration.record(time.monotonic() - started)

    async def heads(self) -> dict[int, str]:
        """Newest cursor of every shard."""
        with self._counted():
            return await self._inner.heads()

    async def floors(self) -> dict[int, str]:
        """Newest trimmed cursor of every shard."""
        with self._counted():
            return await self._inner.floors()

    async def read(
        self, cursors: Mapping[int, str], *, block_seconds: float = 0.0, max_entries: int = 512
    ) -> list[ShardBatch]:
        """Entries after each shard's cursor; rejected ones are counted."""
        with self._counted():
            batches = await self._inner.read(
                cursors, block_seconds=block_seconds, max_entries=max_entries
            )
        if num_rejected := sum(batch.num_rejected for batch in batches):
            self._instruments.rejected.add(num_rejected)
        return batches

    async def put_snapshot(self, prompt_key: PromptKey, snapshot: StoredSnapshot) -> None:
        """Replace a prompt's snapshot."""
        with self._counted():
            await self._inner.put_snapshot(prompt_key, snapshot)

    async def snapshot(self, prompt_key: PromptKey) -> StoredSnapshot | None:
        """Newest compacted tree of a prompt, or None; a span says which."""
        with self._counted(), self._tracer.start_as_current_span(names.SPAN_TREE_SNAPSHOT) as span:
            span.set_attribute(names.ATTR_PROMPT_KEY, prompt_key.hex())
            found = await self._inner.snapshot(prompt_key)
            span.set_attribute(names.ATTR_CACHE_RESULT, "miss" if found is None else "hit")
            return found

    async def snapshot_keys(self, shard: int) -> list[PromptKey]:
        """Prompts of a shard that have a snapshot."""
        with self._counted():
            return await self._inner.snapshot_keys(shard)

    async def remove_prompt(self, prompt_key: PromptKey) -> None:
        """Delete a prompt's snapshot and publish `PromptRemoved`."""
        with self._counted():
            await self._inner.remove_prompt(prompt_key)

    async def trim(self, shard: int, cursor: str) -> None:
        """Forget entries up to and including ``cursor``."""
        with self._counted():
            await self._inner.trim(shard, cursor)

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        await self._inner.close()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except TreeStoreError as error:
            self._instruments.errors.add(1, {names.ATTR_ERROR_TYPE: type(error).__name__})
            raise
