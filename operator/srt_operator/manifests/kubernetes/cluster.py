"""What the operator knows of its cluster, and where a job's parts find each other there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from srt_operator.caches import TreeCacheSpec
from srt_operator.layout import RunLayout
from srt_operator.manifests.kubernetes import pods
from srt_operator.manifests.kubernetes.objects import (
    LABEL_JOB,
    PORT_GATEWAY,
    PORT_TREE_CACHE,
    PORT_WEIGHTS,
    Resource,
    cache_set,
    host,
    rollout_set,
    trainer_name,
)
from srt_operator.manifests.process import Endpoint, Site
from srt_operator.pools import RolloutPoolSpec

LAYOUT: Final = RunLayout(Path(pods.HOME))
"""In every pod; on the trainer's, the run folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What the operator was started with."""

    image_trainer: str
    image_rollout: str
    image_tree_cache: str
    image_runahead: str
    pull_policy: str
    redis_url: str
    """Credentials included."""
    job_redis_url: str
    """The same server for pods of jobs: a user who may do less."""
    redis_ca: str | None = None
    """Certificate that pods of jobs check the server's against."""
    key: bytes
    """What tokens are derived from."""
    file_roots: Sequence[str] = ("/models", "/data")
    pod_defaults: Mapping[str, pods.PodDefaults] = field(default_factory=dict)
    """By ``trainer``, ``rollout`` and ``treeCache``."""
    prometheus_url: str = ""
    """Empty: there is none."""

    @property
    def broker_url(self) -> str:
        """The same server as Celery spells it."""
        return self.redis_url.replace("unix://", "redis+socket://")

    @property
    def redis_secret(self) -> dict[str, str]:
        """What a pod is told of the server, by the keys of its Secret."""
        authority = {} if self.redis_ca is None else {pods.REDIS_CA: self.redis_ca}
        return {"redis-url": self.job_redis_url, **authority}

    @property
    def redis_files(self) -> tuple[str, ...]:
        """Keys of `redis_secret` that a pod finds as files below ``/srt/private``."""
        return () if self.redis_ca is None else (pods.REDIS_CA,)

    def defaults(self, kind: str) -> pods.PodDefaults:
        """For pods of one kind."""
        return self.pod_defaults.get(kind, pods.PodDefaults())


Pool = Resource[RolloutPoolSpec]
Cache = Resource[TreeCacheSpec]

CACHE: Final = "tree-cache"
"""Endpoint of whichever replica answers."""


def site(
    resource: Resource[Any], *, pool: Pool | None, cache: Cache | None, num_threads: int | None
) -> Site:
    """What a pod of ``resource`` must know; ``$(POD_NAME)`` stands for the pod itself."""
    own = PORT_TREE_CACHE if pool is None else PORT_GATEWAY
    endpoints = {pods.POD_NAME: Endpoint("127.0.0.1", own)}
    if cache is not None:
        cache_host = host(cache_set(cache.name), resource.namespace)
        endpoints[CACHE] = Endpoint(cache_host, PORT_TREE_CACHE)
    return Site(
        layout=LAYOUT,
        model=Path("" if pool is None else pods.model_volume(pool.spec.model.uri)[2]),
        job_id="" if pool is None else pool.id,
        job_name=resource.job_labels.get(LABEL_JOB, resource.name),
        cache_id="" if cache is None else cache.id,
        endpoints=endpoints,
        listen_host="0.0.0.0",
        server_url=pods.REDIS_URL,
        broker_url=pods.REDIS_URL,
        scratch=Path("/tmp"),
        telemetry=None,
        cache_token=LAYOUT.private / "cache-token",
        num_engine_threads=num_threads,
        engine_service=None if pool is None else engine_service(pool),
        weights_url=None if pool is None else _weights_url(pool),
    )


def engine_service(pool: Pool) -> str:
    """Base URL of all engines of a pool."""
    return Endpoint(host(rollout_set(pool.name), pool.namespace), PORT_GATEWAY).url


def engine_urls(pool: Pool, num_engines: int) -> dict[str, str]:
    """Base URLs of its engines, by name."""
    name = rollout_set(pool.name)
    service = host(name, pool.namespace)
    return {
        f"{name}-{index}": Endpoint(f"{name}-{index}.{service}", PORT_GATEWAY).url
        for index in range(num_engines)
    }


def cache_urls(cache: Cache) -> list[str]:
    """Base URLs of its replicas."""
    name = cache_set(cache.name)
    service = host(name, cache.namespace)
    return [
        Endpoint(f"{name}-{index}.{service}", PORT_TREE_CACHE).url
        for index in range(cache.spec.replicas)
    ]


def _weights_url(pool: Pool) -> str | None:
    if pool.spec.weights is not None:
        return None
    return Endpoint(host(trainer_name(pool.name), pool.namespace), PORT_WEIGHTS).url
