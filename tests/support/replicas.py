"""Tree cache replicas in this process, on any store, with a clock and leases that tests set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry import metrics, trace
from pydantic import SecretStr

from srt_common.errors import CoordinationUnavailable, LeaseLost
from srt_common.keys import PromptKey
from srt_common.messages.tree_updates import TokensAppended
from srt_common.store.base import TreeStore
from srt_common.telemetry.instruments import CompactionInstruments
from srt_common.tree import PromptForest, pack_tokens
from srt_tree_cache.cache import TreeCache
from srt_tree_cache.compaction import CompactionPolicy, Compactor
from srt_tree_cache.leases import LeaseKeeper
from srt_tree_cache.replica import Replica
from srt_tree_cache.settings import TreeCacheSettings

START_UNIX = 1_000_000.0


class ManualClock:
    """Time that passes only when told to."""

    def __init__(self, start_unix: float = START_UNIX) -> None:
        self._seconds = 0.0
        self._start_unix = start_unix

    def monotonic(self) -> float:
        return self._seconds

    def unix(self) -> float:
        return self._start_unix + self._seconds

    def advance(self, seconds: float) -> None:
        self._seconds += seconds


@dataclass
class FakeLease:
    """A lease whose server a test plays."""

    is_free: bool = True
    is_away: bool = False
    is_held: bool = False
    log: list[str] = field(default_factory=list)

    async def acquire(self) -> bool:
        self._call("acquire")
        self.is_held = self.is_free
        return self.is_held

    async def renew(self) -> None:
        self._call("renew")
        if not self.is_held:
            raise LeaseLost(lease="fake", epoch=1)

    async def release(self) -> None:
        self._call("release")
        self.is_held = False

    def take_away(self) -> None:
        """Somebody else has it now."""
        self.is_free = self.is_held = False

    def _call(self, name: str) -> None:
        self.log.append(name)
        if self.is_away:
            raise CoordinationUnavailable(address="fake", reason="away")


@dataclass
class Rig:
    """A replica with everything around it."""

    cache: TreeCache
    replica: Replica
    keeper: LeaseKeeper
    compactor: Compactor
    leases: list[FakeLease]


def new_forest(*, max_bytes: int = 2**28) -> PromptForest:
    return PromptForest(engine_id=1, max_bytes=max_bytes, seed=0)


def new_replica(
    store: TreeStore, clock: ManualClock, *, slice_tokens: int = 1000, max_bytes: int = 2**28
) -> Replica:
    forest = new_forest(max_bytes=max_bytes)
    return Replica(store, forest, clock=clock, apply_slice_tokens=slice_tokens)


def new_rig(
    store: TreeStore, clock: ManualClock, *, max_bytes: int = 2**28, **settings: float
) -> Rig:
    """A replica with short intervals; ``settings`` replace those of `TreeCacheSettings`."""
    resolved = TreeCacheSettings(
        redis_url=SecretStr("unix:///nowhere"),
        cache_id="tests",
        token_file=Path("token"),
        instance="replica-0",
        num_shards=store.num_shards,
    ).model_copy(update=settings)
    instruments = CompactionInstruments.of(metrics.NoOpMeter("tests"))
    replica = new_replica(
        store, clock, slice_tokens=resolved.apply_slice_tokens, max_bytes=max_bytes
    )
    leases = [FakeLease() for _ in range(store.num_shards)]
    keeper = LeaseKeeper(leases, clock=clock, on_lost=lambda: instruments.leases_lost.add(1))
    policy = CompactionPolicy(
        interval_seconds=resolved.snapshot_interval_seconds,
        after_bytes=resolved.snapshot_after_bytes,
        retention_seconds=resolved.log_retention_seconds,
        rollouts_per_prompt=resolved.rollouts_per_prompt,
    )
    compactor = Compactor(
        replica,
        keeper,
        policy,
        clock=clock,
        tracer=trace.NoOpTracer(),
        instruments=instruments,
    )
    cache = TreeCache(
        replica, keeper, compactor, settings=resolved, clock=clock, instruments=instruments
    )
    return Rig(cache, replica, keeper, compactor, leases)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until ``condition`` holds; the test's time limit ends it otherwise."""
    while not condition():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0.005)


def prompt(number: int) -> PromptKey:
    return PromptKey(number.to_bytes(16, "big"))


def appended(
    key: PromptKey,
    token_ids: list[int],
    *,
    sequence_id: int = 1,
    offset: int = 0,
    policy_version: int = 0,
    lane: int = 0,
) -> TokensAppended:
    return TokensAppended(
        key, sequence_id, offset, policy_version, lane, 7, 0, pack_tokens(token_ids)
    )
