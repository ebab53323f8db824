"""A RolloutPool's objects: engines, their names, the trainer's name, tokens. Pure."""

from __future__ import annotations

from typing import Any, Final

from srt_operator.manifests import rollout, runahead
from srt_operator.manifests.kubernetes import pods
from srt_operator.manifests.kubernetes.cluster import CACHE, LAYOUT, Cache, Cluster, Pool, site
from srt_operator.manifests.kubernetes.objects import (
    LABEL_POOL,
    LABEL_ROLE,
    PORT_GATEWAY,
    PORT_WEIGHTS,
    Manifest,
    cache_set,
    derived,
    headless_service,
    labels,
    manifest,
    rollout_set,
    secret,
    secret_name,
    trainer_name,
)

ROLE: Final = "rollout"
DRAIN_NOTICE_SECONDS: Final = 2
"""From the wish to stop until the gateway is told, for names to be forgotten."""
START_SECONDS: Final = 900
SHARED_MEMORY_LIMIT: Final = "2Gi"
"""What an engine's processes tell each other; it counts as the pod's memory."""
_PROBE_SECONDS: Final = 5


def objects(cluster: Cluster, pool: Pool, cache: Cache | None) -> list[Manifest]:
    """Everything of a pool, in the order it is applied. ``cache``: what its reference names."""
    own = labels(pool, ROLE, {LABEL_POOL: pool.name})
    name = rollout_set(pool.name)
    values = {"token": token(cluster, pool), **cluster.redis_secret}
    return [
        secret(pool, secret_name(pool, name), values, labels=own),
        headless_service(pool, name, ("http", PORT_GATEWAY), selector=selector(pool), labels=own),
        headless_service(
            pool,
            trainer_name(pool.name),
            ("weights", PORT_WEIGHTS),
            selector={LABEL_POOL: pool.name, LABEL_ROLE: "trainer"},
            labels=own,
            is_early=True,
        ),
        _stateful_set(cluster, pool, cache, own),
    ]


def selector(pool: Pool) -> dict[str, str]:
    """Of a pool's pods."""
    return {LABEL_POOL: pool.name, LABEL_ROLE: ROLE}


def token(cluster: Cluster, pool: Pool) -> str:
    """Bearer token of the pool's gateways and of the trainer that serves them."""
    return derived(cluster.key, "rollout", pool.id)


def _stateful_set(
    cluster: Cluster, pool: Pool, cache: Cache | None, own: dict[str, str]
) -> Manifest:
    name = rollout_set(pool.name)
    defaults = cluster.defaults("rollout")
    spec = {
        "replicas": pool.spec.replicas,
        "serviceName": name,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
        "selector": {"matchLabels": selector(pool)},
        "template": {
            "metadata": {"labels": {**defaults.pod_labels, **own}},
            "spec": pods.pod_spec(_pod(cluster, pool, cache), defaults, pool.spec.pod_template),
        },
    }
    return manifest(pool, "apps/v1/StatefulSet", name, {"spec": spec}, labels=own)


def _pod(cluster: Cluster, pool: Pool, cache: Cache | None) -> pods.Pod:
    threads = pods.cpu_threads(
        pods.resources_of(cluster.defaults("rollout"), pool.spec.pod_template)
    )
    where = site(pool, pool=pool, cache=cache, num_threads=threads)
    volumes, mounts, _ = pods.model_volume(pool.spec.model.uri)
    sealed = secret_name(pool, rollout_set(pool.name))
    secrets: dict[str, tuple[str, ...]] = {sealed: ("token", *cluster.redis_files)}
    if cache is not None:
        secrets[secret_name(cache, cache_set(cache.name))] = ("token:cache-token", "cache-secret")
    weights_volume, weights_mount = _weights(pool)
    shm = {"name": "srt-shm", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY_LIMIT}}
    main_mounts = [
        {"name": "srt-home", "mountPath": pods.HOME},
        {"name": "srt-shm", "mountPath": "/dev/shm"},
        pods.private_mount(),
        *weights_mount,
        *mounts,
    ]
    gateway = pods.Container(
        name="gateway",
        image=cluster.image_rollout,
        command=("python", "-m", "srt_rollout"),
        environment=rollout.variables(
            pool.spec,
            where,
            engine=pods.POD_NAME,
            cache=None if cache is None else CACHE,
            num_shards=1 if cache is None else cache.spec.shards,
        ),
        port=("http", PORT_GATEWAY),
        probes=_probes(),
        mounts=main_mounts,
        drains_seconds=DRAIN_NOTICE_SECONDS,
    )
    worker = pods.Container(
        name="runahead",
        image=cluster.image_runahead,
        command=("python", "-m", "srt_runahead"),
        environment=runahead.variables(pool.spec, where, engine=pods.POD_NAME),
        mounts=[pods.private_mount()],
        requests=pods.SMALL,
    )
    return pods.Pod(
        containers=[gateway, worker] if pool.spec.run_ahead.enabled else [gateway],
        volumes=[
            {"name": "srt-home", "emptyDir": {}},
            shm,
            pods.private_volume(secrets),
            *weights_volume,
            *volumes,
        ],
        grace_seconds=rollout.grace_seconds(pool.spec) + DRAIN_NOTICE_SECONDS,
        pull_policy=cluster.pull_policy,
        redis_secret=sealed,
    )


def _probes() -> dict[str, Any]:
    """The engine may take long to start; then it must answer."""
    ready, live = ("/readyz", "http"), ("/livez", "http")
    return {
        "startupProbe": pods.http_probe(
            *ready, periodSeconds=2, failureThreshold=START_SECONDS // 2, timeoutSeconds=2
        ),
        "readinessProbe": pods.http_probe(
            *ready, periodSeconds=_PROBE_SECONDS, failureThreshold=2, timeoutSeconds=2
        ),
        "livenessProbe": pods.http_probe(
            *live, periodSeconds=_PROBE_SECONDS, failureThreshold=6, timeoutSeconds=5
        ),
    }


def _weights(pool: Pool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volume and mount of a shared folder, if weights come through one."""
    weights = pool.spec.weights
    if weights is None:
        return [], []
    claim = {"claimName": weights.claim_name}
    mount = {"name": "srt-weights", "mountPath": str(LAYOUT.weights), "subPath": weights.path}
    return [{"name": "srt-weights", "persistentVolumeClaim": claim}], [mount]
