"""One replica of the tree cache: its loops, and what can be asked of it.

* `start` begins to follow the log, keep leases, compact and evict. `stop` writes snapshots of what
  is owned and gives the leases up, within `STOP_SECONDS`.
* A loop that ended by a mistake of ours makes `is_alive` false: the process wants a restart.
* Evicting a prompt removes it everywhere, so only the owner of its shard does it: each owner frees
  its share of the excess.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Coroutine, Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context

from srt_common.cancellation import cancel_and_wait
from srt_common.clock import Clock
from srt_common.errors import TreeStoreError
from srt_common.keys import PromptKey
from srt_common.messages.tree_cache import (
    CacheStats,
    PrefetchOutcome,
    PromptPage,
    PromptSummary,
)
from srt_common.telemetry import names
from srt_common.telemetry.instruments import CompactionInstruments
from srt_tree_cache.compaction import Compactor
from srt_tree_cache.eviction import HeldPrompt, excess_bytes, prompts_to_evict
from srt_tree_cache.leases import LeaseKeeper
from srt_tree_cache.replica import Replica
from srt_tree_cache.settings import TreeCacheSettings

_LOG = logging.getLogger(__name__)

EVICT_SECONDS: Final = 1.0
STOP_SECONDS: Final = 3.0


class TreeCache:
    """A replica at work. Belongs to one event loop."""

    def __init__(
        self,
        replica: Replica,
        keeper: LeaseKeeper,
        compactor: Compactor,
        *,
        settings: TreeCacheSettings,
        clock: Clock,
        instruments: CompactionInstruments,
    ) -> None:
        self.replica = replica
        self._forest = replica.forest
        self._keeper = keeper
        self._compactor = compactor
        self._settings = settings
        self._clock = clock
        self._instruments = instruments
        self._tracer = trace.get_tracer("srt_tree_cache")
        self._loops: list[asyncio.Task[None]] = []
        self._num_evicted = 0

    # -- life --------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin the loops."""
        loops: dict[str, Coroutine[None, None, None]] = {
            "follow": self.replica.follow(),
            "keep": self._keeper.keep(),
            "compact": self._compactor.run(),
            "evict": self._keep_evicting(),
        }
        self._loops = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]

    async def stop(self) -> None:
        """End the loops, compact what is owned, release it, close the store. Idempotent."""
        await cancel_and_wait(self._loops)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                for shard in self._keeper.owned():
                    await self._compactor.compact(shard)
                await self._keeper.release()
        except (TreeStoreError, TimeoutError) as error:
            _LOG.warning("stopped before all was saved", extra={"reason": str(error)})
        await self.replica.store.close()

    def is_alive(self) -> bool:
        """False once a loop has ended by itself."""
        return not any(loop.done() for loop in self._loops)

    def is_ready(self) -> bool:
        """True once the replica is warm; stays true when the store goes away."""
        return self.replica.is_warm

    # -- queries -----------------------------------------------------------------------------
    async def stats(self) -> CacheStats:
        """A reading of this replica."""
        forest = await asyncio.to_thread(self._forest.stats)
        counts = self.replica.counts
        return CacheStats(
            instance=self._settings.instance,
            is_warm=self.replica.is_warm,
            num_prompts=forest.num_prompts,
            num_sequences=forest.num_sequences,
            num_tokens=forest.num_tokens,
            num_run_ahead_tokens=forest.num_run_ahead_tokens,
            num_run_ahead_tokens_used=forest.num_run_ahead_tokens_used,
            memory_bytes=forest.memory_bytes,
            log_lag_seconds=self.replica.lag_seconds(),
            num_applied_updates=counts.applied_updates,
            num_rejected=self.replica.num_rejected,
            num_gaps=counts.gaps,
            num_unavailable=counts.unavailable,
            owned_shards=self._keeper.owned(),
            num_leases_lost=self._keeper.num_lost,
            num_snapshots=self._compactor.num_snapshots,
            num_evicted_prompts=self._num_evicted + forest.num_evicted_prompts,
        )

    async def coverage(self, prompt_keys: Sequence[PromptKey]) -> list[PromptSummary]:
        """What is held of each prompt, in the order asked; zeros for what is not held."""
        return await asyncio.to_thread(lambda: [self._summary(key) for key in prompt_keys])

    async def page(self, *, after: PromptKey | None, limit: int) -> PromptPage:
        """Up to ``limit`` prompts in order of their keys, from the one after ``after`` on."""
        keys = await asyncio.to_thread(lambda: sorted(self._forest.prompt_keys()))
        start = 0 if after is None else bisect_right(keys, after)
        shown = keys[start : start + limit]
        is_last = start + limit >= len(keys)
        prompts = await self.coverage(shown)
        return PromptPage(prompts, None if is_last else shown[-1].hex())

    async def image(self, prompt_key: PromptKey) -> bytes | None:
        """Canonical snapshot of what is held of a prompt, or None."""
        return await asyncio.to_thread(self._forest.snapshot, prompt_key)

    # -- actions -----------------------------------------------------------------------------
    async def prefetch(self, prompt_key: PromptKey, context: Context) -> PrefetchOutcome:
        """Make sure the newest tree of a prompt lies in the store; ``context`` is the caller's.

        Raises TreeStoreError.
        """
        with self._tracer.start_as_current_span(
            names.SPAN_CACHE_PREFETCH,
            context=context,
            kind=trace.SpanKind.SERVER,
            attributes={names.ATTR_PROMPT_KEY: prompt_key.hex()},
        ) as span:
            is_there = await self._compactor.write_snapshot(prompt_key)
            if not is_there:
                is_there = await self.replica.store.snapshot(prompt_key) is not None
            outcome = PrefetchOutcome("hit" if is_there else "miss")
            span.set_attribute(names.ATTR_CACHE_RESULT, outcome.result)
            return outcome

    async def remove(self, prompt_key: PromptKey) -> bool:
        """Drop a prompt everywhere; True when a tree of it was held here. Raises TreeStoreError."""
        was_held = self._forest.has_prompt(prompt_key)
        await self.replica.remove(prompt_key)
        return was_held

    async def evict(self) -> int:
        """Remove what memory has no room for; returns how many prompts. Raises TreeStoreError."""
        memory_bytes = self._forest.memory_bytes()
        excess = excess_bytes(
            memory_bytes,
            limit_bytes=self._settings.memory_limit_bytes,
            to_fraction=self._settings.evict_to_fraction,
        )
        if excess == 0:
            return 0
        owned = await asyncio.to_thread(self._owned_prompts)
        share = sum(prompt.memory_bytes for prompt in owned) / memory_bytes
        going = prompts_to_evict(
            owned,
            free_bytes=round(excess * share),
            protect_after=self._clock.monotonic() - self._settings.protect_seconds,
        )
        for prompt_key in going:
            await self.replica.remove(prompt_key)
            self._num_evicted += 1
            self._instruments.evicted_prompts.add(1)
        return len(going)

    # -- inside ------------------------------------------------------------------------------
    async def _keep_evicting(self) -> None:
        while True:
            await asyncio.sleep(EVICT_SECONDS)
            try:
                await self.evict()
            except TreeStoreError:
                self.replica.counts.unavailable += 1

    def _owned_prompts(self) -> list[HeldPrompt]:
        owned = set(self._keeper.owned())
        held = []
        for prompt_key in self._forest.prompt_keys():
            stats = self._forest.prompt_stats(prompt_key)
            if stats is not None and self.replica.shard_of(prompt_key) in owned:
                appended_at = self.replica.appended_at(prompt_key)
                held.append(HeldPrompt(prompt_key, stats.memory_bytes, appended_at))
        return held

    def _summary(self, prompt_key: PromptKey) -> PromptSummary:
        stats = self._forest.prompt_stats(prompt_key)
        if stats is None:
            return PromptSummary(prompt_key=prompt_key.hex())
        return PromptSummary(
            prompt_key=prompt_key.hex(),
            num_sequences=stats.num_sequences,
            num_tokens=stats.num_tokens,
            num_run_ahead_sequences=stats.num_run_ahead_sequences,
            num_run_ahead_tokens=stats.num_run_ahead_tokens,
            num_run_ahead_tokens_used=stats.num_run_ahead_tokens_used,
            min_policy_version=stats.min_policy_version,
            max_policy_version=stats.max_policy_version,
            memory_bytes=stats.memory_bytes,
        )
