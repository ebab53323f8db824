"""A rollout engine of a run: gateway, vLLM behind it, drafter inside."""

from __future__ import annotations

import json

from srt_operator.manifests.process import HttpReadiness, LocalProcess, Site, shared
from srt_operator.processes import Component, Member, members
from srt_operator.resources import SRTJob

_STOP_SECONDS = 5.0


def local(job: SRTJob, site: Site, member: Member) -> LocalProcess:
    """One gateway with its engine."""
    drain_seconds = job.spec.rollout.pool.drain_seconds
    variables = shared(job, site) | _gateway(job, site, member)
    if job.spec.rollout.pool.drafter.enabled:
        variables |= _drafter(job, site) | _tree_cache(job, site, member)
    return LocalProcess(
        name=member.name,
        command=(site.python, "-m", "srt_rollout"),
        environment=variables,
        readiness=HttpReadiness(site.url(member.name) + "/readyz"),
        grace_seconds=drain_seconds + _STOP_SECONDS + 5.0,
    )


def _gateway(job: SRTJob, site: Site, member: Member) -> dict[str, str]:
    template = job.spec.rollout.pool
    engine, drafter = template.engine, template.drafter
    is_drafting = drafter.enabled
    variables = {
        "SRT_ROLLOUT_ENGINE_NAME": member.name,
        "SRT_ROLLOUT_MODEL": str(site.model),
        "SRT_ROLLOUT_TOKEN_FILE": str(site.layout.token),
        "SRT_ROLLOUT_HOST": "127.0.0.1",
        "SRT_ROLLOUT_PORT": str(site.ports[member.name]),
        "SRT_ROLLOUT_WEIGHTS_ROOT": str(site.layout.weights),
        "SRT_ROLLOUT_DRAFTER_ENABLED": json.dumps(is_drafting),
        "SRT_ROLLOUT_MAX_DRAFT_TOKENS": str(drafter.max_draft_tokens),
        "SRT_ROLLOUT_MAX_NUM_SEQS": str(engine.max_num_seqs),
        "SRT_ROLLOUT_RESERVE_SLOTS": str(_reserve_slots(job)),
        "SRT_ROLLOUT_MAX_MODEL_LEN": str(engine.max_model_len),
        "SRT_ROLLOUT_DTYPE": template.engine.dtype or job.spec.optimizer.dtype,
        "SRT_ROLLOUT_EXTRA_ARGS": json.dumps(engine.extra_args),
        "SRT_ROLLOUT_DRAIN_SECONDS": str(template.drain_seconds),
        "SRT_ROLLOUT_STOP_SECONDS": str(_STOP_SECONDS),
    }
    if engine.kv_cache_memory is not None:
        variables["SRT_ROLLOUT_KV_CACHE_MEMORY_BYTES"] = str(engine.kv_cache_memory)
    if site.num_engine_threads is not None:  # compiling costs more than it gains on a CPU
        variables["SRT_ROLLOUT_NUM_THREADS"] = str(site.num_engine_threads)
        variables["SRT_ROLLOUT_ENFORCE_EAGER"] = "true"
    return variables


def _reserve_slots(job: SRTJob) -> int:
    return job.spec.run_ahead.reserve_slots if job.spec.run_ahead.enabled else 0


def _drafter(job: SRTJob, site: Site) -> dict[str, str]:
    """The engine's name and the secret reach the drafter through the gateway."""
    drafter = job.spec.rollout.pool.drafter
    return {
        "SRT_DRAFTER_CACHE_URL": site.server_url,
        "SRT_DRAFTER_CACHE_ID": job.metadata.name,
        "SRT_DRAFTER_NUM_SHARDS": str(job.spec.tree_cache.cache.shards),
        "SRT_DRAFTER_MAX_TREE_BYTES": str(drafter.max_tree_bytes),
    }


def _tree_cache(job: SRTJob, site: Site, member: Member) -> dict[str, str]:
    """Engines spread over the replicas."""
    caches = [m for m in members(job.spec) if m.component is Component.TREE_CACHE]
    return {
        "SRT_ROLLOUT_TREE_CACHE_URL": site.url(caches[member.index % len(caches)].name),
        "SRT_ROLLOUT_TREE_CACHE_TOKEN_FILE": str(site.layout.token),
        "SRT_ROLLOUT_CACHE_SECRET_FILE": str(site.layout.cache_secret),
    }
