"""Keeps RolloutPools: their objects, their status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from srt_operator import conditions
from srt_operator.cluster.companions import Reading, share
from srt_operator.cluster.context import Context
from srt_operator.cluster.resolution import Refused, cache_resource, pool_resource, soonest
from srt_operator.cluster.sayings import conditions_of
from srt_operator.conditions import Finding
from srt_operator.constants import ConditionType, Kind, Reason
from srt_operator.manifests.kubernetes import rollout_pool
from srt_operator.manifests.kubernetes.cluster import Cache, Pool
from srt_operator.manifests.kubernetes.objects import LABEL_JOB, Manifest, rollout_set
from srt_operator.status import RolloutPoolStatus


class PoolController:
    """RolloutPools of the cluster."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """One look at one pool."""
        manifest = self._context.store.get(Kind.ROLLOUT_POOL, namespace, name)
        if manifest is None or manifest["metadata"].get("deletionTimestamp"):
            return None
        refusal: Refused | None = None
        try:
            pool = pool_resource(manifest, file_roots=self._context.cluster.file_roots)
            made = rollout_pool.objects(self._context.cluster, pool, self._cache(pool))
            await self._context.upkeep.ensure(*made)
        except Refused as refused:
            refusal = refused
        there = self._context.store.get("StatefulSet", namespace, rollout_set(name))
        status = self._status(manifest, there, refusal)
        return soonest(await self._context.sayings.status(manifest, status), refusal)

    def _cache(self, pool: Pool) -> Cache | None:
        """What its reference names. Raises Refused."""
        reference = pool.spec.tree_cache_ref
        if reference is None or not pool.spec.drafter.enabled:
            return None
        found = self._context.store.get(Kind.TREE_CACHE, pool.namespace, reference.name)
        if found is None:
            message = (
                f"spec.treeCacheRef.name is {reference.name!r}: there is none of that name in the "
                "namespace"
            )
            raise Refused(Reason.REFERENCE_MISSING, message)
        return cache_resource(found)

    def _status(
        self, manifest: Manifest, there: Manifest | None, refusal: Refused | None
    ) -> RolloutPoolStatus:
        metadata = manifest["metadata"]
        seen: dict[str, Any] = {} if there is None else there.get("status", {})
        wanted = int(manifest["spec"].get("replicas", 1))
        ready = int(seen.get("readyReplicas", 0))
        is_current = there is not None and seen.get("observedGeneration", 0) >= there[
            "metadata"
        ].get("generation", 1)
        updated = int(seen.get("updatedReplicas", 0)) if is_current else 0
        found = _findings(ready, updated, wanted, refusal)
        labels = {
            "srt-rl.dev/pool": metadata["name"],
            "srt-rl.dev/role": rollout_pool.ROLE,
        }
        generation = metadata.get("generation", 1)
        heard = self._heard(manifest)
        return RolloutPoolStatus(
            observedGeneration=generation,
            conditions=conditions.merge(
                conditions_of(manifest),
                found,
                now=self._context.clock.unix(),
                generation=generation,
            ),
            selector=",".join(f"{name}={value}" for name, value in labels.items()),
            replicas=int(seen.get("replicas", 0)),
            readyReplicas=ready,
            updatedReplicas=updated,
            policyVersion=heard.policy_version,
            gpuUtilization=share(heard.gpu_utilization),
        )

    def _heard(self, manifest: Manifest) -> Reading:
        """What the companion of the job that uses the pool heard last; nothing without one."""
        metadata = manifest["metadata"]
        for (_, namespace, job), companion in self._context.companions.items():
            uses = companion.spec.rollout.pool_ref
            name = metadata.get("labels", {}).get(LABEL_JOB) if uses is None else uses.name
            wanted = job if uses is None else metadata["name"]
            if namespace == metadata["namespace"] and name == wanted:
                return companion.reading
        return Reading()


def _findings(ready: int, updated: int, wanted: int, refusal: Refused | None) -> Iterator[Finding]:
    if refusal is not None:
        yield Finding(ConditionType.READY, False, refusal.reason, refusal.message)
        yield Finding(ConditionType.AVAILABLE, False, refusal.reason, refusal.message)
        yield Finding(ConditionType.DEGRADED, True, refusal.reason, refusal.message)
        yield Finding(ConditionType.STALLED, True, refusal.reason, refusal.message)
        return
    is_ready = ready >= wanted
    is_moving = not is_ready or updated < wanted
    reason = Reason.ALL_READY if is_ready else Reason.STARTING
    text = f"{ready} of {wanted} engines serve"
    yield Finding(ConditionType.READY, is_ready and not is_moving, reason, text)
    yield Finding(ConditionType.AVAILABLE, is_ready, reason, text)
    moving = Reason.STARTING if is_moving else Reason.ALL_READY
    yield Finding(ConditionType.PROGRESSING, is_moving, moving, text)
    yield Finding(ConditionType.RECONCILING, is_moving, moving)
    yield Finding(ConditionType.DEGRADED, False, reason)
    yield Finding(ConditionType.STALLED, False, reason)
