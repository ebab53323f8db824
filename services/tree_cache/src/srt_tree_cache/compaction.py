"""Snapshots of what changed, then the trim of the log, for shards this replica owns.

* A snapshot's cursor is read before its image is made: the image includes at least that much.
* The log is trimmed only up to what snapshots include, minus a grace for slow readers; a longer one
  while tokens wait for the ones before them, which no snapshot holds yet.
* Where the forest's own bound has dropped a prompt, what is held of it since is joined with the
  snapshot in the store, which knows more.
* Safe without the lease too (snapshots are idempotent, an older one never replaces a newer one,
  floors only rise): ownership saves doing it twice, and is looked at before every write.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from opentelemetry import trace

from srt_common.clock import Clock
from srt_common.errors import MessageTooLarge, TreeError, TreeStoreError
from srt_common.keys import PromptKey
from srt_common.store.base import START, StoredSnapshot
from srt_common.store.cursors import format_cursor, is_before, parse_cursor
from srt_common.store.snapshots import MAX_SNAPSHOT_BYTES
from srt_common.telemetry import names
from srt_common.telemetry.instruments import CompactionInstruments
from srt_common.tree import PromptForest
from srt_tree_cache.leases import LeaseKeeper
from srt_tree_cache.replica import Replica

_LOG = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
EARLY_GRACE_SECONDS: Final = 300.0
"""What an entry waits for longer than this will not come."""
JOINING_BYTES: Final = 16 * MAX_SNAPSHOT_BYTES
"""Bound on a tree made of two images: a tree takes several times the bytes of its image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionPolicy:
    """When a shard is compacted and how much of its log stays."""

    interval_seconds: float
    after_bytes: int
    """Appended bytes that make a shard due before its interval has passed."""
    retention_seconds: float
    """Entries younger than this stay, whatever snapshots include."""
    rollouts_per_prompt: int
    """The least useful rollouts beyond it are dropped before a snapshot is made."""


class Compactor:
    """Compacts the owned shards of a replica, one after the other."""

    def __init__(
        self,
        replica: Replica,
        keeper: LeaseKeeper,
        policy: CompactionPolicy,
        *,
        clock: Clock,
        tracer: trace.Tracer,
        instruments: CompactionInstruments,
    ) -> None:
        self._replica = replica
        self._keeper = keeper
        self._policy = policy
        self._clock = clock
        self._tracer = tracer
        self._instruments = instruments
        self._settled_at = clock.monotonic()
        self._compacted_at = dict.fromkeys(range(replica.store.num_shards), self._settled_at)
        self.num_snapshots = 0

    async def run(self) -> None:
        """Compact what is due until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.settle_trimmed()
                for shard in self.due():
                    await self.compact(shard)
            except TreeStoreError:
                self._replica.counts.unavailable += 1

    def due(self) -> list[int]:
        """Owned shards whose interval has passed or that gained many bytes."""
        now = self._clock.monotonic()
        return [
            shard
            for shard in self._keeper.owned()
            if now - self._compacted_at[shard] >= self._policy.interval_seconds
            or self._replica.changes[shard].num_bytes >= self._policy.after_bytes
        ]

    async def compact(self, shard: int) -> None:
        """Write a snapshot of each changed prompt, then trim.

        Stops as soon as the lease is gone. Raises TreeStoreError; what was written stays.
        """
        changes = self._replica.changes[shard]
        changes.start_anew()
        self._compacted_at[shard] = self._clock.monotonic()
        attributes = {names.ATTR_CACHE_SHARD: shard, names.ATTR_CACHE_PROMPTS: len(changes)}
        with self._tracer.start_as_current_span(names.SPAN_CACHE_COMPACT, attributes=attributes):
            included = self._replica.cursors.get(shard, START)
            for prompt_key in changes.prompt_keys():
                if not self._keeper.owns(shard):
                    return
                await self.write_snapshot(prompt_key)
            if self._keeper.owns(shard):
                await self._trim(shard, included)

    async def write_snapshot(self, prompt_key: PromptKey) -> bool:
        """Put the prompt's tree into the store when it changed; False when there is no tree of it.

        Needs no lease. Raises TreeStoreError.
        """
        shard = self._replica.shard_of(prompt_key)
        changes = self._replica.changes[shard]
        included = self._replica.cursors.get(shard, START)
        if prompt_key not in changes:
            return self._replica.forest.prompt_stats(prompt_key) is not None
        forest, max_rollouts = self._replica.forest, self._policy.rollouts_per_prompt
        await asyncio.to_thread(forest.retain_rollouts, prompt_key, max_rollouts)
        image = await asyncio.to_thread(forest.snapshot, prompt_key)
        if image is None:
            changes.forget(prompt_key)
            return False
        if forest.has_evicted(prompt_key):
            image = await self._joined(prompt_key, image)
        try:
            await self._replica.store.put_snapshot(prompt_key, StoredSnapshot(image, included))
        except MessageTooLarge as error:
            extra = {"prompt_key": prompt_key.hex(), "reason": error.reason}
            _LOG.warning("a tree is too large for a snapshot", extra=extra)
        else:
            self.num_snapshots += 1
            self._instruments.snapshots.add(1)
        changes.settle(prompt_key, included)
        return True

    async def _joined(self, prompt_key: PromptKey, image: bytes) -> bytes:
        """An image of a tree that may lack a beginning, with what the store has of it."""
        held = await self._replica.store.snapshot(prompt_key)
        if held is None:
            return image
        return await asyncio.to_thread(
            joined, prompt_key, held.image, image, max_rollouts=self._policy.rollouts_per_prompt
        )

    async def settle_trimmed(self) -> None:
        """Once an interval, strike off what other owners' snapshots include.

        Raises TreeStoreError.
        """
        now = self._clock.monotonic()
        if now - self._settled_at < self._policy.interval_seconds:
            return
        self._settled_at = now
        for shard, floor in (await self._replica.store.floors()).items():
            self._replica.changes[shard].settle_below(floor)

    async def _trim(self, shard: int, included: str) -> None:
        """Forget what is in snapshots and older than the retention."""
        grace_seconds = self._policy.retention_seconds
        if self._replica.forest.stats().num_early_tokens > 0:
            grace_seconds = max(grace_seconds, EARLY_GRACE_SECONDS)
        retained_from = int((self._clock.unix() - grace_seconds) * 1000)
        cursor = min(included, format_cursor((max(0, retained_from), 0)), key=parse_cursor)
        if is_before(START, cursor):
            await self._replica.store.trim(shard, cursor)
            self._instruments.trims.add(1)


def joined(prompt_key: PromptKey, held: bytes, image: bytes, *, max_rollouts: int) -> bytes:
    """One image of what two of a prompt hold; of ``held`` nothing when it cannot be read."""
    forest = PromptForest(engine_id=0, max_bytes=JOINING_BYTES, seed=0)
    try:
        forest.load_snapshot(held)
    except TreeError as error:
        extra = {"prompt_key": prompt_key.hex(), "reason": error.reason}
        _LOG.warning("a snapshot was refused", extra=extra)
    forest.load_snapshot(image)
    forest.retain_rollouts(prompt_key, max_rollouts)
    return forest.snapshot(prompt_key) or image
