"""A job's pool and cache as resources of their own. Pure."""

from __future__ import annotations

from srt_operator.caches import TreeCacheSpec
from srt_operator.pools import PoolRunAhead, PoolWeights, RolloutPoolSpec
from srt_operator.resource_parts import Reference
from srt_operator.resources import SRTJob


def pool_of(job: SRTJob) -> RolloutPoolSpec:
    """The engines of a job."""
    spec, template = job.spec, job.spec.rollout.pool
    has_drafter = template.drafter.enabled
    dtype = template.engine.dtype or spec.optimizer.dtype
    cache = spec.tree_cache.cache_ref or Reference(name=job.metadata.name)
    return RolloutPoolSpec(
        replicas=template.replicas,
        engine=template.engine.model_copy(update={"dtype": dtype}),
        drafter=template.drafter,
        drainSeconds=template.drain_seconds,
        podTemplate=template.pod_template,
        model=spec.model,
        treeCacheRef=cache if has_drafter else None,
        weights=_weights(job),
        runAhead=PoolRunAhead(
            enabled=has_drafter and spec.run_ahead.enabled,
            reserveSlots=spec.run_ahead.reserve_slots,
        ),
        traceSampleRatio=spec.telemetry.trace_sample_ratio,
    )


def cache_of(job: SRTJob) -> TreeCacheSpec:
    """The trees of a job."""
    template = job.spec.tree_cache.cache
    return TreeCacheSpec(
        replicas=template.replicas, shards=template.shards, retention=template.retention
    )


def _weights(job: SRTJob) -> PoolWeights | None:
    storage = job.spec.storage
    if storage.claim_name is None:
        return None
    return PoolWeights(
        claimName=storage.claim_name, path=f"{storage.path}/{job.metadata.name}/weights"
    )
