"""Keeps TreeCaches: their objects, their status, and what they leave in Redis when they go."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from srt_common.errors import TreeStoreError
from srt_common.messages.tree_cache import CacheStats
from srt_common.store.redis_log import RedisLogStore
from srt_operator import conditions
from srt_operator.caches import TreeCacheSpec
from srt_operator.cluster.context import Context
from srt_operator.cluster.finalizers import FINALIZER, finalizers, is_skipped, others
from srt_operator.cluster.resolution import RETRY_SECONDS, Refused, cache_resource, soonest
from srt_operator.cluster.sayings import conditions_of
from srt_operator.cluster.store import controller_uid
from srt_operator.conditions import Finding
from srt_operator.constants import ConditionType, Kind, Reason
from srt_operator.manifests.kubernetes import tree_cache
from srt_operator.manifests.kubernetes.cluster import Cache
from srt_operator.manifests.kubernetes.objects import Manifest, cache_set, rollout_set
from srt_operator.status import TreeCacheStatus

_LOG = logging.getLogger(__name__)


class CacheController:
    """TreeCaches of the cluster."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """One look at one cache."""
        manifest = self._context.store.get(Kind.TREE_CACHE, namespace, name)
        if manifest is None:
            return None
        if manifest["metadata"].get("deletionTimestamp"):
            return await self._let_go(manifest)
        refusal: Refused | None = None
        try:
            cache = cache_resource(manifest)
            await self._hold(manifest, cache)
            await self._context.upkeep.ensure(*tree_cache.objects(self._context.cluster, cache))
        except Refused as refused:
            refusal = refused
        there = self._context.store.get("StatefulSet", namespace, cache_set(name))
        status = self._status(manifest, there, refusal)
        return soonest(await self._context.sayings.status(manifest, status), refusal)

    async def _hold(self, manifest: Manifest, cache: Cache) -> None:
        """Have a finalizer exactly where there will be something to remove."""
        wants = cache.spec.deletion_policy == "Delete"
        has = FINALIZER in finalizers(manifest)
        if wants != has:
            kept = others(manifest)
            await self._context.set_finalizers(manifest, [*kept, FINALIZER] if wants else kept)

    async def _let_go(self, manifest: Manifest) -> float | None:
        """Remove the trees, then the finalizer; pods that still write are waited for. The spec may
        be one that is refused by now.
        """
        if FINALIZER not in finalizers(manifest):
            return None
        if not is_skipped(manifest) and not await self._forget(manifest):
            return RETRY_SECONDS
        self._context.sayings.forget(manifest["metadata"]["uid"])
        await self._context.set_finalizers(manifest, others(manifest))
        return None

    async def _forget(self, manifest: Manifest) -> bool:
        metadata = manifest["metadata"]
        name = metadata["name"]
        await self._context.upkeep.delete_part(manifest, "StatefulSet", cache_set(name))
        if writers := self._writers(manifest):
            message = f"its trees are removed when nobody writes them: {', '.join(writers)} may"
            self._context.sayings.event(manifest, Reason.IN_USE, message, is_bad=False)
            return False
        store = RedisLogStore.from_url(
            self._context.cluster.redis_url,
            cache=controller_uid(manifest) or metadata["uid"],
            num_shards=manifest["spec"].get("shards", TreeCacheSpec().shards),
        )
        try:
            await store.forget()
        except TreeStoreError as error:
            message = (
                f"its trees cannot be removed from Redis ({error}); it is tried again. To leave "
                "them there: kubectl annotate treecache "
                f"{name} srt-rl.dev/skip-cleanup=true"
            )
            self._context.sayings.event(manifest, Reason.REDIS_UNAVAILABLE, message, is_bad=True)
            return False
        finally:
            await store.close()
        return True

    def _writers(self, manifest: Manifest) -> list[str]:
        """Its own pods, and those of engines that draft from it. A job's cache has its job's id:
        while the job goes on it is made anew and reads what its engines write; else they are gone.
        """
        store, metadata = self._context.store, manifest["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        pods = store.of_owner("Pod", namespace, "StatefulSet", cache_set(name))
        if controller_uid(manifest) is not None:
            return sorted(pod["metadata"]["name"] for pod in pods)
        for pool in store.of_kind(Kind.ROLLOUT_POOL):
            reference = pool["spec"].get("treeCacheRef", {}).get("name")
            if (pool["metadata"]["namespace"], reference) == (namespace, name):
                engines = rollout_set(pool["metadata"]["name"])
                pods += store.of_owner("Pod", namespace, "StatefulSet", engines)
        return sorted(pod["metadata"]["name"] for pod in pods)

    def _status(
        self, manifest: Manifest, there: Manifest | None, refusal: Refused | None
    ) -> TreeCacheStatus:
        metadata = manifest["metadata"]
        seen: dict[str, Any] = {} if there is None else there.get("status", {})
        wanted = int(manifest["spec"].get("replicas", 1))
        ready = int(seen.get("readyReplicas", 0))
        generation = metadata.get("generation", 1)
        stats = self._stats(metadata["namespace"], metadata["name"])
        return TreeCacheStatus(
            observedGeneration=generation,
            conditions=conditions.merge(
                conditions_of(manifest),
                _findings(ready, wanted, refusal),
                now=self._context.clock.unix(),
                generation=generation,
            ),
            replicas=int(seen.get("replicas", 0)),
            readyReplicas=ready,
            display=f"{ready}/{wanted}",
            prompts=max((s.num_prompts for s in stats), default=None),
            memory=_memory(max((s.memory_bytes for s in stats), default=None)),
        )

    def _stats(self, namespace: str, name: str) -> list[CacheStats]:
        for (_, where, job), companion in self._context.companions.items():
            reference = companion.spec.tree_cache.cache_ref
            used = job if reference is None else reference.name
            if (where, used) == (namespace, name):
                return companion.reading.caches
        return []


def _memory(num_bytes: int | None) -> str | None:
    return None if num_bytes is None else f"{num_bytes / 2**20:.1f}Mi"


def _findings(ready: int, wanted: int, refusal: Refused | None) -> Iterator[Finding]:
    if refusal is not None:
        yield Finding(ConditionType.READY, False, refusal.reason, refusal.message)
        yield Finding(ConditionType.STALLED, True, refusal.reason, refusal.message)
        return
    is_ready = ready >= wanted
    reason = Reason.ALL_READY if is_ready else Reason.STARTING
    yield Finding(ConditionType.READY, is_ready, reason, f"{ready} of {wanted} replicas answer")
    yield Finding(ConditionType.RECONCILING, not is_ready, reason)
    yield Finding(ConditionType.STALLED, False, reason)
