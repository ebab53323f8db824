"""An SRTJob's own objects: its pool and cache as resources, the trainer as an Indexed Job. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

from srt_operator.constants import API_VERSION, Kind
from srt_operator.manifests import trainer
from srt_operator.manifests.kubernetes import pods
from srt_operator.manifests.kubernetes.cluster import LAYOUT, Cache, Cluster, Pool, site
from srt_operator.manifests.kubernetes.objects import (
    LABEL_JOB,
    LABEL_JOB_UID,
    LABEL_POOL,
    PORT_WEIGHTS,
    Manifest,
    Resource,
    cache_set,
    labels,
    manifest,
    rollout_set,
    secret,
    secret_name,
    trainer_name,
)
from srt_operator.manifests.parts import cache_of, pool_of
from srt_operator.resource_parts import Part
from srt_operator.resources import SRTJob, SRTJobSpec

ROLE: Final = "trainer"
GRACE_SECONDS: Final = 30.0

Job = Resource[SRTJobSpec]


def pool(owner: Job, job: SRTJob, *, is_wanted: bool = True) -> Manifest:
    """The RolloutPool that a job owns; not wanted: without pods."""
    spec = pool_of(job)
    wanted = spec if is_wanted else spec.model_copy(update={"replicas": 0})
    return _child(owner, Kind.ROLLOUT_POOL, wanted, "rollout")


def cache(owner: Job, job: SRTJob, *, is_wanted: bool = True) -> Manifest:
    """The TreeCache that a job owns; not wanted: without pods, its trees wait in Redis."""
    spec = cache_of(job)
    wanted = spec if is_wanted else spec.model_copy(update={"replicas": 0})
    return _child(owner, Kind.TREE_CACHE, wanted, "tree-cache")


def training(
    cluster: Cluster, owner: Job, job: SRTJob, *, pool: Pool, cache: Cache | None
) -> list[Manifest]:
    """The trainer. ``job``: with its references resolved."""
    own = _labels(owner, pool)
    where = site(owner, pool=pool, cache=cache, num_threads=None)
    settings = trainer.settings(job, where) | {"file_roots": list(cluster.file_roots)}
    text = json.dumps(settings, indent=2)
    name = trainer_name(owner.name)
    values = {
        "trainer.json": text.replace(pods.REDIS_URL, json.dumps(cluster.job_redis_url)[1:-1]),
        **cluster.redis_secret,
    }
    sealed = secret(owner, secret_name(owner, name), values, labels=own)
    return [sealed, _job(cluster, owner, job, pool, cache)]


def _child(owner: Job, kind: Kind, spec: Part, role: str) -> Manifest:
    body = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    mine = labels(owner, role, {LABEL_JOB: owner.name, LABEL_JOB_UID: owner.uid})
    return manifest(owner, f"{API_VERSION}/{kind}", owner.name, {"spec": body}, labels=mine)


def _labels(owner: Job, pool: Pool) -> dict[str, str]:
    whose = {LABEL_JOB: owner.name, LABEL_JOB_UID: owner.uid, LABEL_POOL: pool.name}
    return labels(owner, ROLE, whose)


def _job(cluster: Cluster, owner: Job, job: SRTJob, pool: Pool, cache: Cache | None) -> Manifest:
    defaults = cluster.defaults("trainer")
    own = _labels(owner, pool)
    template = job.spec.trainer.pod_template
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": job.spec.trainer.nodes,
        "parallelism": job.spec.trainer.nodes,
        "backoffLimit": job.spec.backoff_limit,
        "podReplacementPolicy": "Failed",  # never two: both would write weights and checkpoints
        "template": {
            "metadata": {"labels": {**defaults.pod_labels, **own}},
            "spec": pods.pod_spec(_pod(cluster, owner, job, pool, cache), defaults, template),
        },
    }
    return manifest(owner, "batch/v1/Job", trainer_name(owner.name), {"spec": spec}, labels=own)


def _pod(cluster: Cluster, owner: Job, job: SRTJob, pool: Pool, cache: Cache | None) -> pods.Pod:
    where = site(owner, pool=pool, cache=cache, num_threads=None)
    volumes, mounts, _ = pods.model_volume(job.spec.model.uri)
    name = secret_name(owner, trainer_name(owner.name))
    secrets: dict[str, tuple[str, ...]] = {
        name: ("trainer.json", *cluster.redis_files),
        secret_name(pool, rollout_set(pool.name)): ("token",),
    }
    if cache is not None:
        secrets[secret_name(cache, cache_set(cache.name))] = ("cache-secret",)
    home, home_mount = _home(job)
    container = pods.Container(
        name="trainer",
        image=cluster.image_trainer,
        command=("python", "-m", "srt_trainer", "--config", str(LAYOUT.trainer_settings)),
        environment=trainer.variables(job, where),
        port=("weights", PORT_WEIGHTS),
        mounts=[home_mount, pods.private_mount(), *mounts],
    )
    return pods.Pod(
        containers=[container],
        volumes=[home, pods.private_volume(secrets), *volumes],
        grace_seconds=GRACE_SECONDS,
        pull_policy=cluster.pull_policy,
        redis_secret=name,
        restart_policy="OnFailure",
    )


def _home(job: SRTJob) -> tuple[dict[str, Any], dict[str, Any]]:
    """Volume and mount of the run folder."""
    storage = job.spec.storage
    mount: dict[str, Any] = {"name": "srt-home", "mountPath": pods.HOME}
    if storage.claim_name is None:
        return {"name": "srt-home", "emptyDir": {}}, mount
    claim = {"claimName": storage.claim_name}
    mount["subPath"] = f"{storage.path}/{job.metadata.name}"
    return {"name": "srt-home", "persistentVolumeClaim": claim}, mount
