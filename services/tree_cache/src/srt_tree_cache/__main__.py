"""``python -m srt_tree_cache``: serve one replica until SIGTERM.

Exit status: 0 after snapshots were written and leases given up, 2 for wrong settings.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from opentelemetry import metrics, trace

from srt_common.bearer import BearerToken
from srt_common.clock import SystemClock
from srt_common.coordination import ShardLease
from srt_common.errors import ConfigurationError
from srt_common.keys import engine_id
from srt_common.store.redis_log import RedisLogStore, connect
from srt_common.store.traced import TracedStore
from srt_common.telemetry import names
from srt_common.telemetry.instruments import CompactionInstruments, StoreInstruments, observe
from srt_common.telemetry.setup import configure
from srt_common.tree import PromptForest
from srt_tree_cache.app import make_app
from srt_tree_cache.cache import TreeCache
from srt_tree_cache.compaction import CompactionPolicy, Compactor
from srt_tree_cache.leases import LeaseKeeper
from srt_tree_cache.replica import Replica
from srt_tree_cache.settings import TreeCacheSettings

_LOG = logging.getLogger("srt_tree_cache")

HARD_LIMIT_FACTOR = 1.25
"""The forest's own bound over ``memory_limit_bytes``: reached only if eviction cannot keep up."""


class CacheServer(uvicorn.Server):
    """uvicorn that leaves signals alone: `serve` handles them, and the exit status is our own."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield


def main() -> int:
    """Read the settings and serve."""
    try:
        settings = TreeCacheSettings.from_environment()
        if not settings.instance:
            name = f"{socket.gethostname()}-{os.getpid()}"
            settings = settings.model_copy(update={"instance": name})
        telemetry = configure("srt-tree-cache", instance=settings.instance)
        _LOG.info("starting", extra={"settings": settings.resolved()})
        asyncio.run(serve(settings, BearerToken(settings.token_file)))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    telemetry.close()
    return 0


async def serve(settings: TreeCacheSettings, token: BearerToken) -> None:
    """Serve until SIGTERM or SIGINT."""
    cache = make_cache(settings)
    config = uvicorn.Config(
        make_app(cache, token),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=256,
        timeout_graceful_shutdown=1,
    )
    server = CacheServer(config)

    def stop() -> None:
        server.should_exit = True

    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop)
    await server.serve()


def make_cache(settings: TreeCacheSettings) -> TreeCache:
    """A replica on the Redis log, with this process's telemetry."""
    clock, tracer, meter = SystemClock(), trace.get_tracer(__name__), metrics.get_meter(__name__)
    instruments = CompactionInstruments.of(meter)
    url, timeout_seconds = settings.redis_url.get_secret_value(), settings.redis_timeout_seconds
    redis = connect(url, timeout_seconds=timeout_seconds)
    store = RedisLogStore(
        redis,
        cache=settings.cache_id,
        num_shards=settings.num_shards,
        timeout_seconds=timeout_seconds,
        address=url.rsplit("@", maxsplit=1)[-1],
    )
    forest = PromptForest(
        engine_id=engine_id(settings.instance),
        max_bytes=int(settings.memory_limit_bytes * HARD_LIMIT_FACTOR),
        seed=0,
    )
    replica = Replica(
        TracedStore(store, tracer=tracer, instruments=StoreInstruments.of(meter)),
        forest,
        clock=clock,
        apply_slice_tokens=settings.apply_slice_tokens,
    )
    keeper = LeaseKeeper(
        [
            ShardLease(redis, cache=settings.cache_id, shard=shard, holder=settings.instance)
            for shard in range(settings.num_shards)
        ],
        clock=clock,
        on_lost=lambda: instruments.leases_lost.add(1),
    )
    compactor = Compactor(
        replica,
        keeper,
        CompactionPolicy(
            interval_seconds=settings.snapshot_interval_seconds,
            after_bytes=settings.snapshot_after_bytes,
            retention_seconds=settings.log_retention_seconds,
            rollouts_per_prompt=settings.rollouts_per_prompt,
        ),
        clock=clock,
        tracer=tracer,
        instruments=instruments,
    )
    observe_replica(meter, replica, keeper)
    return TreeCache(
        replica, keeper, compactor, settings=settings, clock=clock, instruments=instruments
    )


def observe_replica(meter: metrics.Meter, replica: Replica, keeper: LeaseKeeper) -> None:
    """Gauges of what the replica holds, owns and lags."""
    forest = replica.forest
    observe(meter, names.METRIC_TREE_MEMORY, forest.memory_bytes)
    observe(meter, names.METRIC_TREE_PROMPTS, lambda: forest.stats().num_prompts)
    observe(meter, names.METRIC_TREE_TOKENS, lambda: forest.stats().num_tokens)
    observe(meter, names.METRIC_TREE_RUN_AHEAD_TOKENS, lambda: forest.stats().num_run_ahead_tokens)
    observe(
        meter,
        names.METRIC_TREE_RUN_AHEAD_TOKENS_USED,
        lambda: forest.stats().num_run_ahead_tokens_used,
    )
    observe(meter, names.METRIC_LOG_LAG, replica.lag_seconds)
    observe(meter, names.METRIC_CACHE_OWNED_SHARDS, lambda: len(keeper.owned()))


if __name__ == "__main__":
    sys.exit(main())
