"""Keeps SRTJobs: one look, one plan, its actions, what is said of it.

* Every look decides from what is there; carrying it out and looking again changes nothing.
* A job that is wrong or waits for something is said so and otherwise left as it is; what stops a
  job stops it all the same.
* What a job has on the server is removed when nothing of it runs any more and writes there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from srt_common.coordination import Coordination
from srt_common.errors import CoordinationUnavailable
from srt_operator.backends.kubernetes import KubernetesBackend, seconds_of
from srt_operator.background import at_once
from srt_operator.cluster import job_status
from srt_operator.cluster.companions import Companion, Reading
from srt_operator.cluster.context import Context
from srt_operator.cluster.finalizers import FINALIZER, finalizers, is_cancelled, is_skipped, others
from srt_operator.cluster.resolution import (
    RETRY_SECONDS,
    Refused,
    Resolved,
    cache_resource,
    earliest,
    is_ours,
    pool_reference,
    pool_resource,
    resolve,
    soonest,
    users_of,
)
from srt_operator.cluster.sayings import conditions_of
from srt_operator.cluster.store import Key, controller_uid
from srt_operator.conditions import Finding, is_true
from srt_operator.constants import ConditionType, Kind, Reason
from srt_operator.findings import CANCELLED_MESSAGE, deadline_message
from srt_operator.manifests.kubernetes import rollout_pool, training, tree_cache
from srt_operator.manifests.kubernetes.cluster import (
    Cache,
    Pool,
    cache_urls,
    engine_urls,
)
from srt_operator.manifests.kubernetes.objects import (
    LABEL_JOB_UID,
    LABEL_ROLE,
    Manifest,
    rollout_set,
    trainer_name,
)
from srt_operator.processes import Component, Observed, ProcessStatus
from srt_operator.reconciler import Plan, plan
from srt_operator.runahead.assembly import Place
from srt_operator.runahead.dispatch import CeleryDispatcher

STOP_SECONDS: Final = 2.0
"""Between looks at what a job that goes still runs; the end of a pod brings another."""
_LOG = logging.getLogger(__name__)


class JobController:
    """SRTJobs of the cluster."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """One look at one job."""
        key = (str(Kind.SRT_JOB), namespace, name)
        manifest = self._context.store.get(*key)
        if manifest is None:
            await self._context.companions.end(key)
            return None
        if not is_ours(manifest):
            return None
        if manifest["metadata"].get("deletionTimestamp"):
            await self._context.companions.end(key)
            return await self._let_go(manifest)
        try:
            resolved = self._resolve(manifest)
            if FINALIZER not in finalizers(manifest):
                await self._context.set_finalizers(manifest, [*others(manifest), FINALIZER])
            return await self._advance(key, manifest, resolved)
        except Refused as refused:
            return await self._refuse(key, manifest, refused)

    async def _refuse(self, key: Key, manifest: Manifest, refused: Refused) -> float | None:
        """Say why nothing is done. An ended job stays as it ended; one that is to stop does."""
        now, found = self._context.clock.unix(), conditions_of(manifest)
        if any(is_true(found, end) for end in (ConditionType.COMPLETE, ConditionType.FAILED)):
            ended = manifest["status"].get("completionTime")
            return await self._expire(manifest, ended, now)
        stop = _stop_of(manifest, now)
        if stop is not None:
            await self._context.companions.end(key)
            await self._stop_trainer(manifest)
        status = job_status.refused(manifest, refused, stop, now=now)
        due = await self._context.sayings.status(manifest, status)
        left = await self._expire(manifest, status.completion_time, now)
        return soonest(earliest(due, left), refused)

    async def _advance(self, key: Key, manifest: Manifest, resolved: Resolved) -> float | None:
        now = self._context.clock.unix()
        backend = self._backend(resolved, now)
        decided, processes = await self._plan(key, backend, manifest, resolved)
        is_ending = decided.is_over or resolved.job.spec.suspend
        if is_ending:
            reading = await self._context.companions.finish(key)
        else:
            reading = await self._accompany(key, resolved, _started_at(manifest, now))
            await backend.bring_up_to_date()
        await backend.apply(decided.actions)
        status = job_status.of_job(
            manifest,
            resolved,
            decided,
            processes,
            reading=reading,
            now=now,
        )
        due = await self._context.sayings.status(manifest, status)
        left = await self._expire(manifest, status.completion_time, now)
        return earliest(decided.requeue_after, due, left)

    async def _plan(
        self, key: Key, backend: KubernetesBackend, manifest: Manifest, resolved: Resolved
    ) -> tuple[Plan, Mapping[str, ProcessStatus]]:
        """What to do; once the job ends, only of what it owns and what ends by itself."""
        now, companion = self._context.clock.unix(), self._context.companions.get(key)
        processes = await backend.observe()
        observed = Observed(
            processes,
            _started_at(manifest, now),
            conditions_of(manifest),
            is_cancelled=is_cancelled(manifest),
            server_fault="" if companion is None else companion.reading.server_fault,
        )
        decided = plan(resolved.job.spec, observed, now)
        if decided.is_over or resolved.job.spec.suspend:
            owned = {
                name: status for name, status in processes.items() if _ends_with_job(name, resolved)
            }
            decided = plan(resolved.job.spec, replace(observed, processes=owned), now)
        return decided, processes

    def _resolve(self, manifest: Manifest) -> Resolved:
        cluster = self._context.cluster
        return resolve(
            manifest,
            self._context.store,
            redis_url=cluster.redis_url,
            file_roots=cluster.file_roots,
        )

    def _backend(self, resolved: Resolved, now: float) -> KubernetesBackend:
        def manifests(component: Component, is_wanted: bool) -> Sequence[Manifest]:
            return self._manifests(resolved, component, is_wanted=is_wanted)

        return KubernetesBackend(
            self._context.upkeep,
            self._context.store,
            resolved.names,
            resolved.job.spec,
            manifests=manifests,
            now=now,
        )

    def _manifests(
        self, resolved: Resolved, component: Component, *, is_wanted: bool
    ) -> Sequence[Manifest]:
        owner, job = resolved.owner, resolved.job
        if component is Component.ROLLOUT:
            return [training.pool(owner, job, is_wanted=is_wanted)]
        if component is Component.TREE_CACHE:
            return [training.cache(owner, job, is_wanted=is_wanted)]
        pool, cache = self._parts(resolved)
        if pool is None:
            return []
        return training.training(self._context.cluster, owner, job, pool=pool, cache=cache)

    def _parts(self, resolved: Resolved) -> tuple[Pool | None, Cache | None]:
        """Pool and cache as they are there; what another job of the same name left is not."""
        names, store = resolved.names, self._context.store
        pool = store.get(Kind.ROLLOUT_POOL, names.namespace, names.pool)
        if pool is not None and names.owns_pool and controller_uid(pool) != names.job_uid:
            pool = None
        cache = names.cache and store.get(Kind.TREE_CACHE, names.namespace, names.cache)
        if cache and names.owns_cache and controller_uid(cache) != names.job_uid:
            cache = None
        return (
            None if pool is None else pool_resource(pool, file_roots=("/",)),
            cache_resource(cache) if cache else None,
        )

    # -- beside the pods
    async def _accompany(self, key: Key, resolved: Resolved, since: float) -> Reading | None:
        """Have a companion that knows the job, the pool and the cache as they are; what it heard
        last. ``since``: when the job began, in Unix seconds.
        """
        pool, cache = self._parts(resolved)
        if pool is None:
            return None
        cluster, context = self._context.cluster, self._context
        place = self._place(resolved, pool, cache)
        there = context.companions.get(key)
        if there is not None:
            if there.is_running and there.suits(resolved.job.spec, place):
                return there.reading
            await self._context.companions.end(key)
        looks = asyncio.get_running_loop()
        companion = Companion(
            resolved.job.spec,
            place,
            token=lambda: rollout_pool.token(cluster, pool),
            since=since,
            clock=context.clock,
            on_reading=lambda: looks.call_soon_threadsafe(_look_at, context, key, resolved),
        )
        context.companions.begin(key, companion)
        return None

    def _place(self, resolved: Resolved, pool: Pool, cache: Cache | None) -> Place:
        cluster = self._context.cluster
        return Place(
            job_id=pool.id,
            job_name=resolved.job.metadata.name,
            engines=engine_urls(pool, pool.spec.replicas),
            caches=[] if cache is None else cache_urls(cache),
            cache_token=lambda: "" if cache is None else tree_cache.token(cluster, cache),
            server_url=cluster.redis_url,
            broker_url=cluster.broker_url,
            telemetry=None,
            prometheus_url=cluster.prometheus_url,
            namespace=pool.namespace,
        )

    # -- ends
    async def _expire(self, manifest: Manifest, ended: str | None, now: float) -> float | None:
        """Delete a job whose time after its end is over; else how long it has."""
        ttl: float | None = manifest["spec"].get("ttlSecondsAfterFinished")
        if ttl is None or ended is None:
            return None
        left = seconds_of(ended, now) + ttl - now
        if left > 0:
            return left
        metadata = manifest["metadata"]
        await self._context.api.delete(Kind.SRT_JOB, metadata["namespace"], metadata["name"])
        return None

    async def _let_go(self, manifest: Manifest) -> float | None:
        """Stop what runs, remove what the job has on the server, then the finalizer."""
        if FINALIZER not in finalizers(manifest):
            return None
        if not is_skipped(manifest):
            if await self._is_still_running(manifest):
                return STOP_SECONDS
            try:
                await self._forget(manifest)
            except CoordinationUnavailable as error:
                self._say_why_it_stays(manifest, error)
                return RETRY_SECONDS
        self._context.sayings.forget(manifest["metadata"]["uid"])
        await self._context.set_finalizers(manifest, others(manifest))
        return None

    async def _is_still_running(self, manifest: Manifest) -> bool:
        """Whether trainer or engines of a job that goes may still write; they are told to stop."""
        uid = manifest["metadata"]["uid"]
        await at_once(self._stop_trainer(manifest), self._stop_engines(manifest))
        return any(
            pod["metadata"].get("labels", {}).get(LABEL_JOB_UID) == uid
            and pod["metadata"]["labels"].get(LABEL_ROLE) in (rollout_pool.ROLE, training.ROLE)
            for pod in self._context.store.of_kind("Pod")
        )

    async def _stop_engines(self, manifest: Manifest) -> None:
        """Of the job's own pool."""
        metadata, context = manifest["metadata"], self._context
        namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
        pool = context.store.get(Kind.ROLLOUT_POOL, namespace, name)
        if pool is not None and controller_uid(pool) == uid and pool["spec"].get("replicas"):
            change = {"spec": {"replicas": 0}}
            await context.api.merge(Kind.ROLLOUT_POOL, namespace, name, change)

    async def _stop_trainer(self, manifest: Manifest) -> None:
        name = trainer_name(manifest["metadata"]["name"])
        await self._context.upkeep.delete_part(manifest, "Job", name)

    async def _forget(self, manifest: Manifest) -> None:
        """What lies under a pool's name stays while another job uses the pool.

        Raises:
            CoordinationUnavailable: the server is away.
        """
        metadata, store = manifest["metadata"], self._context.store
        job_id, pool = metadata["uid"], metadata["name"]
        maker = manifest["spec"].get("rollout", {}).get("template", {})
        if shared := pool_reference(manifest):
            there = store.get(Kind.ROLLOUT_POOL, metadata["namespace"], shared)
            if there is None or len(users_of(shared, store, metadata["namespace"])) > 1:
                return
            job_id, pool, maker = there["metadata"]["uid"], shared, there["spec"]
        coordination = Coordination.from_url(self._context.cluster.redis_url, job=job_id)
        dispatcher = CeleryDispatcher(self._context.cluster.broker_url, job=job_id)
        try:
            engines = [f"{rollout_set(pool)}-{i}" for i in range(maker.get("replicas", 1))]
            await at_once(coordination.forget_job(), dispatcher.forget(engines))
        finally:
            await coordination.close()
            await dispatcher.close()

    def _say_why_it_stays(self, manifest: Manifest, error: CoordinationUnavailable) -> None:
        name = manifest["metadata"]["name"]
        message = (
            f"what it has in Redis cannot be removed ({error}); it is tried again. To leave it "
            f"there: kubectl annotate srtjob {name} srt-rl.dev/skip-cleanup=true"
        )
        self._context.sayings.event(manifest, Reason.REDIS_UNAVAILABLE, message, is_bad=True)


def _ends_with_job(process: str, resolved: Resolved) -> bool:
    """Whether the end of a job waits for a process: its own pods, but for workers beside engines,
    which go with them.
    """
    if process.startswith(f"{Component.RUN_AHEAD}-"):
        return False
    if process.startswith(f"{Component.ROLLOUT}-"):
        return resolved.names.owns_pool
    return not process.startswith(f"{Component.TREE_CACHE}-") or resolved.names.owns_cache


def _started_at(manifest: Manifest, now: float) -> float:
    """Of a job, in Unix seconds; one that has not been said to have started does so now."""
    return seconds_of(manifest.get("status", {}).get("startTime"), now)


def _stop_of(manifest: Manifest, now: float) -> Finding | None:
    """What ends or halts a job that cannot be acted on: its user, or its time; None: nothing."""
    spec = manifest["spec"]
    if is_cancelled(manifest):
        return Finding(ConditionType.FAILED, True, Reason.CANCELLED, CANCELLED_MESSAGE)
    ends_after = spec.get("activeDeadlineSeconds")
    if ends_after is not None and _started_at(manifest, now) + ends_after <= now:
        message = deadline_message(ends_after)
        return Finding(ConditionType.FAILED, True, Reason.DEADLINE_EXCEEDED, message)
    if spec.get("suspend"):
        return Finding(ConditionType.SUSPENDED, True, Reason.SUSPEND_REQUESTED)
    return None


def _look_at(context: Context, key: Key, resolved: Resolved) -> None:
    """Something was heard of a job: its own, its pool's and its cache's status may be new."""
    names = resolved.names
    context.queue.add(key)
    context.queue.add((str(Kind.ROLLOUT_POOL), names.namespace, names.pool))
    if names.cache is not None:
        context.queue.add((str(Kind.TREE_CACHE), names.namespace, names.cache))
