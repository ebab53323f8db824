"""TreeCache: the shared trees, made for a job or shared by reference.

* Shared by explicit reference only, within one namespace: a tree is text that somebody sampled.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from srt_operator.resource_parts import Allowed, Bytes, Metadata, Part


class RetentionSpec(Part):
    """What the shared trees keep."""

    max_bytes: Annotated[Bytes, Field(ge=2**20)] = 2**30
    """Trees of one replica; least useful prompts go first."""
    rollouts_per_prompt: Annotated[int, Field(ge=1, le=1024)] = 128
    """Rollouts kept of one prompt; the least useful go first."""


class RedisSpec(Part):
    """A Redis-protocol server of one's own."""

    endpoint: Annotated[
        str,
        Field(max_length=512, pattern=r"^(redis|rediss|unix)://\S+$"),
        Allowed("redis://, rediss:// or unix:// URL"),
    ]
    """Absent in a local run: one is started."""


class TreeCacheReplicas(Part):
    """Processes that hold the trees."""

    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that hold the trees, compact the log and answer queries."""
    shards: Literal[16, 32, 64, 128, 256, 512, 1024] = 256
    """Streams of the update log; fixed for the life of a run."""
    retention: RetentionSpec = RetentionSpec()
    """What stays."""


class TreeCacheTemplate(TreeCacheReplicas):
    """The tree cache a job owns."""

    redis: RedisSpec | None = None
    """Where log and snapshots live, in a local run; in a cluster the operator's server is used."""


class TreeCacheSpec(TreeCacheReplicas):
    """Trees that stand on their own."""

    replicas: Annotated[int, Field(ge=0, le=64)] = 1
    """Processes that hold the trees; 0: the trees wait in Redis."""
    deletion_policy: Literal["Delete", "Retain"] = "Delete"
    """``Delete``: what the trees hold goes with the resource; ``Retain``: it stays in Redis."""


class TreeCache(Part):
    """Shared trees as a resource."""

    api_version: Literal["srt-rl.dev/v1alpha1"]
    kind: Literal["TreeCache"]
    metadata: Metadata
    spec: TreeCacheSpec = TreeCacheSpec()
