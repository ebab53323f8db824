"""A job as it is in a cluster: read from the API server, references replaced by what they name.

Pure. What is not allowed or not there is a sentence and a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from srt_common.errors import ConfigurationError
from srt_operator import job_file, places, pool_use
from srt_operator.backends.kubernetes import Names
from srt_operator.caches import RedisSpec, TreeCache, TreeCacheReplicas, TreeCacheTemplate
from srt_operator.cluster.finalizers import is_cancelled
from srt_operator.cluster.store import Store, controller_uid
from srt_operator.constants import MANAGED_BY, SETTLED, ConditionType, Kind, Reason
from srt_operator.manifests.kubernetes.cluster import Cache, Pool
from srt_operator.manifests.kubernetes.objects import Manifest, Resource, Spec, trainer_name
from srt_operator.pools import RolloutPool
from srt_operator.resources import JobTreeCacheSpec, SRTJob, SRTJobSpec

RETRY_SECONDS: Final = 10.0
KEPT = ("name", "namespace", "labels", "annotations")


class Refused(Exception):
    """A resource that cannot be acted on now."""

    def __init__(
        self, reason: Reason, message: str, *, missing: ConditionType | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.missing = missing
        """The condition that waits for something that is not there; None: it is refused."""


def soonest(due: float | None, refusal: Refused | None) -> float | None:
    """When to look again: what is waited for may come without a word."""
    is_waiting = refusal is not None and refusal.missing is not None
    return earliest(due, RETRY_SECONDS if is_waiting else None)


def earliest(*moments: float | None) -> float | None:
    """The first of those that there are."""
    return min((moment for moment in moments if moment is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A job with everything it refers to."""

    owner: Resource[Any]
    job: SRTJob
    """Templates in place of references, the operator's server in place of none."""
    names: Names


def document_of(manifest: Manifest) -> dict[str, Any]:
    """A resource without what only the API server knows."""
    metadata = {k: v for k, v in manifest["metadata"].items() if k in KEPT}
    rest = {k: v for k, v in manifest.items() if k in ("apiVersion", "kind", "spec")}
    return {**rest, "metadata": metadata}


def resource_of(manifest: Manifest, spec: Spec) -> Resource[Spec]:
    """A resource as the API server has it, around its typed spec."""
    metadata = manifest["metadata"]
    return Resource(
        kind=Kind(manifest["kind"]),
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        spec=spec,
        generation=metadata.get("generation", 1),
        labels=metadata.get("labels", {}),
        owner_uid=controller_uid(manifest),
    )


def pool_resource(manifest: Manifest, *, file_roots: Sequence[str]) -> Pool:
    """A RolloutPool. Raises Refused."""
    try:
        spec = RolloutPool.model_validate(document_of(manifest)).spec
    except ValidationError as error:
        raise Refused(Reason.VALIDATION_FAILED, _sentences(error)) from error
    if faults := places.model_faults(spec.model.uri, file_roots=file_roots):
        raise Refused(Reason.VALIDATION_FAILED, "; ".join(faults))
    return resource_of(manifest, spec)


def cache_resource(manifest: Manifest) -> Cache:
    """A TreeCache. Raises Refused."""
    try:
        spec = TreeCache.model_validate(document_of(manifest)).spec
    except ValidationError as error:
        raise Refused(Reason.VALIDATION_FAILED, _sentences(error)) from error
    return resource_of(manifest, spec)


def resolve(
    manifest: Manifest, store: Store, *, redis_url: str, file_roots: Sequence[str]
) -> Resolved:
    """A job as it is to be acted on.

    Raises:
        Refused: it cannot be, for now or for good.
    """
    try:
        job = job_file.job_of(document_of(manifest))
    except ConfigurationError as error:
        raise Refused(Reason.VALIDATION_FAILED, "; ".join(error.faults)) from error
    if faults := places.cluster_faults(job.spec, file_roots=file_roots):
        raise Refused(Reason.VALIDATION_FAILED, "; ".join(faults))
    owner = resource_of(manifest, job.spec)
    spec = _with_cache(_with_pool(job.spec, store, owner), store, owner, redis_url=redis_url)
    pool_ref, cache_ref = job.spec.rollout.pool_ref, spec.tree_cache.cache_ref
    cache_name = job.metadata.name if cache_ref is None else cache_ref.name
    return Resolved(
        owner=owner,
        job=job.model_copy(update={"spec": spec}),
        names=Names(
            namespace=owner.namespace,
            job=job.metadata.name,
            job_uid=owner.uid,
            pool=job.metadata.name if pool_ref is None else pool_ref.name,
            cache=cache_name if spec.rollout.pool.drafter.enabled else None,
            owns_pool=pool_ref is None,
            owns_cache=cache_ref is None,
        ),
    )


def _with_pool(spec: SRTJobSpec, store: Store, owner: Resource[Any]) -> SRTJobSpec:
    """The template of a pool in place of a reference to it, and with it the pool's cache."""
    reference = spec.rollout.pool_ref
    if reference is None:
        return spec
    manifest = store.get(Kind.ROLLOUT_POOL, owner.namespace, reference.name)
    if manifest is None:
        raise _missing(ConditionType.ROLLOUT_READY, "spec.rollout.poolRef.name", reference.name)
    if (other := _user_of(reference.name, store, owner)) is not None:
        message = f"RolloutPool {reference.name} serves SRTJob {other}; this one waits for its end"
        raise Refused(Reason.POOL_IN_USE, message, missing=ConditionType.ROLLOUT_READY)
    pool = pool_resource(manifest, file_roots=("/",)).spec
    if pool.replicas == 0:
        message = f"RolloutPool {reference.name} has no replicas: scale it up"
        raise Refused(Reason.REPLICAS_MISSING, message, missing=ConditionType.ROLLOUT_READY)
    if faults := pool_use.faults(spec, reference.name, pool):
        raise Refused(Reason.VALIDATION_FAILED, "; ".join(faults))
    return pool_use.with_pool(spec, pool)


def _with_cache(
    spec: SRTJobSpec, store: Store, owner: Resource[Any], *, redis_url: str
) -> SRTJobSpec:
    """The template of a cache in place of a reference, on the operator's server."""
    reference = spec.tree_cache.cache_ref
    cache: TreeCacheReplicas
    if reference is None:
        cache = spec.tree_cache.cache
    else:
        manifest = store.get(Kind.TREE_CACHE, owner.namespace, reference.name)
        if manifest is None:
            field = "spec.treeCache.cacheRef.name"
            raise _missing(ConditionType.TREE_CACHE_READY, field, reference.name)
        cache = cache_resource(manifest).spec
    template = TreeCacheTemplate(
        replicas=cache.replicas,
        shards=cache.shards,
        retention=cache.retention,
        redis=RedisSpec(endpoint=redis_url),
    )
    tree_cache = JobTreeCacheSpec(template=template, cacheRef=reference)
    return spec.model_copy(update={"tree_cache": tree_cache})


def _user_of(pool: str, store: Store, owner: Resource[Any]) -> str | None:
    """The job that a pool is another's of: whose trainer is there, else the oldest that goes on."""
    mine = store.get(Kind.SRT_JOB, owner.namespace, owner.name)
    assert mine is not None
    is_training = _has_trainer(mine, store)
    for other in users_of(pool, store, owner.namespace):
        if other["metadata"]["uid"] == owner.uid:
            continue
        is_older = _age(other) < _age(mine)
        if _has_trainer(other, store):
            is_its = is_older or not is_training
        else:
            is_its = is_older and _may_start(other) and not is_training
        if is_its:
            return str(other["metadata"]["name"])
    return None


def users_of(pool: str, store: Store, namespace: str) -> list[Manifest]:
    """Jobs that refer to a pool."""
    return [
        job
        for job in store.of_kind(Kind.SRT_JOB)
        if job["metadata"]["namespace"] == namespace and pool_reference(job) == pool
    ]


def pool_reference(job: Manifest) -> str | None:
    """The pool that a job refers to; None: it has its own."""
    name: str | None = job["spec"].get("rollout", {}).get("poolRef", {}).get("name")
    return name


def _may_start(job: Manifest) -> bool:
    """Whether a job whose trainer is not there may get one: not if it is over, set aside, somebody
    else's or wrong.
    """
    status = job.get("status", {})
    is_refused = any(
        it["type"] == ConditionType.ACCEPTED and it["status"] == "False"
        for it in status.get("conditions", ())
    )
    is_stopped = is_cancelled(job) or job["spec"].get("suspend", False)
    return is_ours(job) and not is_refused and not is_stopped and status.get("phase") not in SETTLED


def is_ours(job: Manifest) -> bool:
    """Whether a job is left to this operator."""
    return bool(job["spec"].get("managedBy", MANAGED_BY) == MANAGED_BY)


def _has_trainer(job: Manifest, store: Store) -> bool:
    """Whether a job's trainer runs, or may still be ending."""
    namespace, name = job["metadata"]["namespace"], trainer_name(job["metadata"]["name"])
    there = store.get("Job", namespace, name)
    if there is not None and controller_uid(there) == job["metadata"]["uid"]:
        conditions = there.get("status", {}).get("conditions", ())
        ended = {c["type"] for c in conditions if c["status"] == "True"}
        if not ended & {"Complete", "Failed"}:
            return True
    pods = store.of_owner("Pod", namespace, "Job", name)
    return any(pod.get("status", {}).get("phase") not in ("Succeeded", "Failed") for pod in pods)


def _age(manifest: Manifest) -> tuple[str, str]:
    return manifest["metadata"]["creationTimestamp"], manifest["metadata"]["name"]


def _missing(condition: ConditionType, field: str, name: str) -> Refused:
    message = f"{field} is {name!r}: there is none of that name in the namespace"
    return Refused(Reason.REFERENCE_MISSING, message, missing=condition)


def _sentences(error: ValidationError) -> str:
    sentences = []
    for fault in error.errors(include_url=False):
        path = ".".join(map(str, fault["loc"])) or "spec"
        sentences.append(f"{path}: {fault['msg'].removeprefix('Value error, ')}")
    return "; ".join(sentences)
