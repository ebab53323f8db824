"""A TreeCache's objects: replicas, their names, a disruption budget, secrets. Pure."""

from __future__ import annotations

from typing import Any, Final

from srt_operator.manifests import tree_cache
from srt_operator.manifests.kubernetes import pods
from srt_operator.manifests.kubernetes.cluster import Cache, Cluster, site
from srt_operator.manifests.kubernetes.objects import (
    LABEL_CACHE,
    LABEL_ROLE,
    PORT_TREE_CACHE,
    Manifest,
    cache_set,
    derived,
    headless_service,
    labels,
    manifest,
    secret,
    secret_name,
)
from srt_operator.manifests.process import shared
from srt_operator.resource_parts import PodTemplate

ROLE: Final = "tree-cache"
TRACE_SAMPLE_RATIO: Final = 0.01
START_SECONDS: Final = 100


def objects(cluster: Cluster, cache: Cache) -> list[Manifest]:
    """Everything of a cache, in the order it is applied."""
    own = labels(cache, ROLE, {LABEL_CACHE: cache.name})
    name = cache_set(cache.name)
    values = {
        "token": token(cluster, cache),
        "cache-secret": derived(cluster.key, "prompts", cache.id),
        **cluster.redis_secret,
    }
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": selector(cache)}}
    return [
        secret(cache, secret_name(cache, name), values, labels=own),
        headless_service(
            cache, name, ("http", PORT_TREE_CACHE), selector=selector(cache), labels=own
        ),
        manifest(cache, "policy/v1/PodDisruptionBudget", name, {"spec": budget}, labels=own),
        _stateful_set(cluster, cache, own),
    ]


def selector(cache: Cache) -> dict[str, str]:
    """Of a cache's pods."""
    return {LABEL_CACHE: cache.name, LABEL_ROLE: ROLE}


def token(cluster: Cluster, cache: Cache) -> str:
    """Bearer token of the cache's replicas."""
    return derived(cluster.key, "tree-cache", cache.id)


def _stateful_set(cluster: Cluster, cache: Cache, own: dict[str, str]) -> Manifest:
    name = cache_set(cache.name)
    defaults = cluster.defaults("treeCache")
    spec = {
        "replicas": cache.spec.replicas,
        "serviceName": name,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
        "selector": {"matchLabels": selector(cache)},
        "template": {
            "metadata": {"labels": {**defaults.pod_labels, **own}},
            "spec": pods.pod_spec(_pod(cluster, cache), defaults, PodTemplate()),
        },
    }
    return manifest(cache, "apps/v1/StatefulSet", name, {"spec": spec}, labels=own)


def _pod(cluster: Cluster, cache: Cache) -> pods.Pod:
    sealed = secret_name(cache, cache_set(cache.name))
    where = site(cache, pool=None, cache=cache, num_threads=None)
    replica = pods.Container(
        name="tree-cache",
        image=cluster.image_tree_cache,
        command=("python", "-m", "srt_tree_cache"),
        environment=shared(where, trace_sample_ratio=TRACE_SAMPLE_RATIO)
        | tree_cache.variables(cache.spec, where, name=pods.POD_NAME),
        port=("http", PORT_TREE_CACHE),
        probes=_probes(),
        mounts=[pods.private_mount()],
        requests=pods.SMALL,
    )
    return pods.Pod(
        containers=[replica],
        volumes=[pods.private_volume({sealed: ("token:cache-token", *cluster.redis_files)})],
        grace_seconds=tree_cache.GRACE_SECONDS,
        pull_policy=cluster.pull_policy,
        redis_secret=sealed,
    )


def _probes() -> dict[str, Any]:
    ready, live = ("/readyz", "http"), ("/livez", "http")
    return {
        "startupProbe": pods.http_probe(
            *live, periodSeconds=1, failureThreshold=START_SECONDS, timeoutSeconds=2
        ),
        "readinessProbe": pods.http_probe(
            *ready, periodSeconds=5, failureThreshold=2, timeoutSeconds=2
        ),
        "livenessProbe": pods.http_probe(
            *live, periodSeconds=5, failureThreshold=6, timeoutSeconds=5
        ),
    }
