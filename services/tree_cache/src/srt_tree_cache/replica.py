"""Applies the update log of every shard to one forest, in order and in slices.

* Start: remember the floors, load all snapshots, then follow the log from the floors.
* A gap (the log was trimmed past this reader, or lost): load the shard's snapshots, then go on.
* A log that was wiped: everything held counts as changed, so that the store gets it back.
* Replaying is harmless, so a restarted replica is the same again from snapshots and log.
* The store away: what is held is served on; reading is tried again and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from srt_common.clock import Clock
from srt_common.errors import TreeError, TreeStoreError
from srt_common.keys import PromptKey, shard_of
from srt_common.messages.tree_updates import (
    PromptRemoved,
    TokensAppended,
    TokensUsed,
    TreeUpdate,
)
from srt_common.store.base import START, ShardBatch, TreeStore
from srt_common.store.cursors import appended_at_unix
from srt_common.tree import PromptForest
from srt_tree_cache.changes import ChangedPrompts

_LOG = logging.getLogger(__name__)

BLOCK_SECONDS: Final = 1.0
GATHER_SECONDS: Final = 0.1
"""Between reads: nobody waits for a replica, and it shares its processor with engines at times."""
RETRY_SECONDS: Final = 0.5
MAX_ENTRIES: Final = 256


@dataclass(slots=True)
class ReplicaCounts:
    """What happened since the start."""

    applied_updates: int = 0
    rejected: int = 0
    """Log entries and images that were skipped; refused updates the forest counts itself."""
    gaps: int = 0
    unavailable: int = 0


class Replica:
    """One forest that follows the log. Belongs to one event loop; merging runs in a thread."""

    def __init__(
        self, store: TreeStore, forest: PromptForest, *, clock: Clock, apply_slice_tokens: int
    ) -> None:
        self.store = store
        self.forest = forest
        self.counts = ReplicaCounts()
        self.changes = [ChangedPrompts() for _ in range(store.num_shards)]
        self.cursors: dict[int, str] = {}
        """By shard: everything up to here is in the forest. Empty before the start."""
        self.is_warm = False
        """All snapshots were loaded and the log's heads of that time were reached."""
        self._clock = clock
        self._apply_slice_tokens = apply_slice_tokens
        self._stale = set(range(store.num_shards))
        self._appended_at: dict[PromptKey, float] = {}
        self._lag_seconds: dict[int, float] = {}
        self._read_at = clock.monotonic()

    @property
    def num_rejected(self) -> int:
        """Log entries, images and updates that were skipped."""
        return self.counts.rejected + self.forest.rejected()[0]

    def shard_of(self, prompt_key: PromptKey) -> int:
        """Shard of a prompt."""
        return shard_of(prompt_key, self.store.num_shards)

    def appended_at(self, prompt_key: PromptKey) -> float:
        """Monotonic seconds of a prompt's last append seen here; minus infinity when none was."""
        return self._appended_at.get(prompt_key, float("-inf"))

    def lag_seconds(self) -> float:
        """Age of what the most belated shard applied last, or since when nothing could be read."""
        silent_seconds = self._clock.monotonic() - self._read_at - BLOCK_SECONDS
        return max(0.0, silent_seconds, *self._lag_seconds.values())

    async def follow(self) -> None:
        """Load, then apply the log until cancelled."""
        while True:
            try:
                await self.catch_up(block_seconds=BLOCK_SECONDS)
                await asyncio.sleep(GATHER_SECONDS)
            except TreeStoreError:
                self.counts.unavailable += 1
                await asyncio.sleep(RETRY_SECONDS)

    async def catch_up(self, *, block_seconds: float = 0.0) -> int:
        """Load what is stale, then apply one reading of the log; returns how many batches it had.

        Raises:
            TreeStoreError: the store is away; the next call goes on where this one ended.
        """
        if not self.cursors:
            self.cursors = await self.store.floors()
        while self._stale:
            shard = min(self._stale)
            await self._load_shard(shard)
            self._stale.discard(shard)
        batches = await self.store.read(
            self.cursors, block_seconds=block_seconds, max_entries=MAX_ENTRIES
        )
        self._read_at = self._clock.monotonic()
        self._lag_seconds = {}
        for batch in batches:
            await self._apply(batch)
        if not batches:
            self.is_warm = True
        return len(batches)

    async def remove(self, prompt_key: PromptKey) -> None:
        """Drop a prompt here, in the store and, through the log, everywhere."""
        await self.store.remove_prompt(prompt_key)
        self._forget(prompt_key)

    # -- inside ------------------------------------------------------------------------------
    async def _load_shard(self, shard: int) -> None:
        for prompt_key in await self.store.snapshot_keys(shard):
            snapshot = await self.store.snapshot(prompt_key)
            if snapshot is None:
                continue
            try:
                await asyncio.to_thread(self.forest.load_snapshot, snapshot.image)
            except TreeError as error:
                self.counts.rejected += 1
                extra = {"prompt_key": prompt_key.hex(), "reason": error.reason}
                _LOG.warning("a snapshot was refused", extra=extra)

    async def _apply(self, batch: ShardBatch) -> None:
        """Merge one shard's news; the cursor moves when all of it is in the forest."""
        self.counts.rejected += batch.num_rejected
        if batch.has_gap:
            self.counts.gaps += 1
            await self._load_shard(batch.shard)
            if batch.cursor == START:
                self._note_all(batch.shard)
        appended: list[TokensAppended] = []
        for update in batch.updates:
            if isinstance(update, TokensAppended):
                appended.append(update)
                continue
            await self._extend(batch, appended)
            appended = []
            self._apply_other(update)
        await self._extend(batch, appended)
        self.cursors[batch.shard] = batch.cursor
        self.counts.applied_updates += len(batch.updates)
        if batch.cursor != START:
            age = self._clock.unix() - appended_at_unix(batch.cursor)
            self._lag_seconds[batch.shard] = age

    def _note_all(self, shard: int) -> None:
        """The store lost its memory: what is held here belongs into new snapshots."""
        for prompt_key in self.forest.prompt_keys():
            if self.shard_of(prompt_key) == shard:
                self.changes[shard].note(prompt_key, START, 0)

    async def _extend(self, batch: ShardBatch, appended: Sequence[TokensAppended]) -> None:
        """Merge appends in slices, letting queries through in between."""
        now = self._clock.monotonic()
        for update in appended:
            prompt_key = PromptKey(update.prompt_key)
            num_bytes = len(update.tokens) + len(update.soft)
            self._appended_at[prompt_key] = now
            self.changes[batch.shard].note(prompt_key, batch.cursor, num_bytes)
        rows = [msgspec.structs.astuple(update) for update in appended]
        while rows:
            taken = await asyncio.to_thread(self.forest.apply, rows, self._apply_slice_tokens)
            rows = rows[taken:]

    def _apply_other(self, update: TreeUpdate) -> None:
        if isinstance(update, PromptRemoved):
            self._forget(PromptKey(update.prompt_key))
        elif isinstance(update, TokensUsed):
            self._mark_used(update)

    def _mark_used(self, update: TokensUsed) -> None:
        prompt_key = PromptKey(update.prompt_key)
        offsets = np.asarray(update.offsets, dtype=np.int32)
        try:
            self.forest.mark_used(prompt_key, update.sequence_id, offsets)
        except TreeError:
            self.counts.rejected += 1

    def _forget(self, prompt_key: PromptKey) -> None:
        self.forest.remove_prompt(prompt_key)
        self.changes[self.shard_of(prompt_key)].forget(prompt_key)
        self._appended_at.pop(prompt_key, None)
