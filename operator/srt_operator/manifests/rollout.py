"""A rollout engine of a job: gateway, vLLM behind it, drafter inside."""

from __future__ import annotations

import json
from typing import Final

from srt_operator.manifests.parts import pool_of
from srt_operator.manifests.process import HttpReadiness, LocalProcess, LocalSite, Site, shared
from srt_operator.pools import RolloutPoolSpec
from srt_operator.processes import Component, Member, members
from srt_operator.resources import SRTJob

STOP_SECONDS: Final = 5.0


def local(job: SRTJob, site: LocalSite, member: Member) -> LocalProcess:
    """One gateway with its engine; engines spread over the replicas of the tree cache."""
    pool = pool_of(job)
    caches = [m.name for m in members(job.spec) if m.component is Component.TREE_CACHE]
    return LocalProcess(
        name=member.name,
        command=(site.python, "-m", "srt_rollout"),
        environment=variables(
            pool,
            site,
            engine=member.name,
            cache=caches[member.index % len(caches)] if caches else None,
            num_shards=job.spec.tree_cache.cache.shards,
        ),
        readiness=HttpReadiness(site.url(member.name) + "/readyz"),
        grace_seconds=grace_seconds(pool),
    )


def grace_seconds(pool: RolloutPoolSpec) -> float:
    """From SIGTERM to SIGKILL."""
    return pool.drain_seconds + STOP_SECONDS + 5.0


def variables(
    pool: RolloutPoolSpec, site: Site, *, engine: str, cache: str | None, num_shards: int
) -> dict[str, str]:
    """Settings of one engine.

    Args:
        pool: what it belongs to.
        site: where it is.
        engine: its name.
        cache: the replica of the tree cache that it tells of prompts; None: it does not draft.
        num_shards: of the tree cache.
    """
    found = shared(site, trace_sample_ratio=pool.trace_sample_ratio) | _gateway(pool, site, engine)
    if cache is not None:
        found |= _drafter(pool, site, num_shards) | _tree_cache(site, cache)
    return found


def _gateway(pool: RolloutPoolSpec, site: Site, name: str) -> dict[str, str]:
    engine, drafter = pool.engine, pool.drafter
    found = {
        "SRT_ROLLOUT_ENGINE_NAME": name,
        "SRT_ROLLOUT_MODEL": str(site.model),
        "SRT_ROLLOUT_TOKEN_FILE": str(site.layout.token),
        "SRT_ROLLOUT_HOST": site.listen_host,
        "SRT_ROLLOUT_PORT": str(site.endpoints[name].port),
        "SRT_ROLLOUT_WEIGHTS_ROOT": str(site.layout.weights),
        "SRT_ROLLOUT_DRAFTER_ENABLED": json.dumps(drafter.enabled),
        "SRT_ROLLOUT_MAX_DRAFT_TOKENS": str(drafter.max_draft_tokens),
        "SRT_ROLLOUT_MAX_NUM_SEQS": str(engine.max_num_seqs),
        "SRT_ROLLOUT_RESERVE_SLOTS": str(
            pool.run_ahead.reserve_slots if pool.run_ahead.enabled else 0
        ),
        "SRT_ROLLOUT_MAX_MODEL_LEN": str(engine.max_model_len),
        "SRT_ROLLOUT_DTYPE": engine.dtype or "auto",
        "SRT_ROLLOUT_EXTRA_ARGS": json.dumps(engine.extra_args),
        "SRT_ROLLOUT_DRAIN_SECONDS": str(pool.drain_seconds),
        "SRT_ROLLOUT_STOP_SECONDS": str(STOP_SECONDS),
    }
    if engine.kv_cache_memory is not None:
        found["SRT_ROLLOUT_KV_CACHE_MEMORY_BYTES"] = str(engine.kv_cache_memory)
    if site.weights_url is not None:
        found["SRT_ROLLOUT_WEIGHTS_URL_PREFIX"] = site.weights_url
    if site.num_engine_threads is not None:  # compiling costs more than it gains on a CPU
        found["SRT_ROLLOUT_NUM_THREADS"] = str(site.num_engine_threads)
        found["SRT_ROLLOUT_ENFORCE_EAGER"] = "true"
    return found


def _drafter(pool: RolloutPoolSpec, site: Site, num_shards: int) -> dict[str, str]:
    """The engine's name and the secret reach the drafter through the gateway."""
    return {
        "SRT_DRAFTER_CACHE_URL": site.server_url,
        "SRT_DRAFTER_CACHE_ID": site.cache_id,
        "SRT_DRAFTER_NUM_SHARDS": str(num_shards),
        "SRT_DRAFTER_MAX_TREE_BYTES": str(pool.drafter.max_tree_bytes),
    }


def _tree_cache(site: Site, cache: str) -> dict[str, str]:
    return {
        "SRT_ROLLOUT_TREE_CACHE_URL": site.url(cache),
        "SRT_ROLLOUT_TREE_CACHE_TOKEN_FILE": str(site.cache_token),
        "SRT_ROLLOUT_CACHE_SECRET_FILE": str(site.layout.cache_secret),
    }
