"""Settings of one tree cache replica: ``SRT_TREE_CACHE_*``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from srt_common.settings import ServiceSettings


class TreeCacheSettings(ServiceSettings, env_prefix="SRT_TREE_CACHE_"):
    """Settings of one replica."""

    redis_url: SecretStr
    """Where log, snapshots and leases live: ``redis[s]://`` or ``unix://``. Required."""
    redis_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Limit of one call. A read that has nothing to return waits longer."""
    cache_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
    """The TreeCache these trees belong to. Required."""
    num_shards: Annotated[int, Field(ge=1, le=1024)] = 16
    """Shards of the log; fixed for the life of the cache."""
    instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,128}$")] = ""
    """Name of this replica, stable over restarts; empty: host and process id."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8090
    """0: a free one."""
    token_file: Path
    """File with the bearer token of all below ``/v1``; read again when it changes. Required."""
    memory_limit_bytes: Annotated[int, Field(ge=2**20)] = 4 * 2**30
    """Bytes of all trees on this replica before eviction starts."""
    evict_to_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Eviction stops at this share of ``memory_limit_bytes``."""
    rollouts_per_prompt: Annotated[int, Field(ge=1, le=1024)] = 128
    """Rollouts kept of one prompt; the least useful go first, when it is compacted."""
    protect_seconds: Annotated[float, Field(ge=0)] = 30.0
    """A prompt that gained tokens so recently is not evicted."""
    snapshot_interval_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Time between two snapshots of a changed prompt."""
    snapshot_after_bytes: Annotated[int, Field(gt=0)] = 8 * 2**20
    """A shard that gained so many bytes is compacted without waiting for the interval."""
    log_retention_seconds: Annotated[float, Field(ge=0)] = 30.0
    """Entries younger than this stay in the log though snapshots hold them, for slow readers."""
    apply_slice_tokens: Annotated[int, Field(ge=1)] = 65_536
    """Tokens merged into the trees at a time; queries are answered in between."""
