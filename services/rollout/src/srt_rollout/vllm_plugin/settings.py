"""Settings of the drafter inside the engine, ``SRT_DRAFTER_*`` (table in
services/rollout/README.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from srt_common.settings import ServiceSettings


class DrafterSettings(ServiceSettings):
    """How one engine drafts. Every field has a default that works without a cache."""

    model_config = SettingsConfigDict(env_prefix="SRT_DRAFTER_")

    engine_name: Annotated[str, Field(min_length=1, max_length=63)] = "engine"
    """Names this engine in traces and as the origin of its tokens; unique within a cache."""

    mode: Literal["sampled", "point_mass", "off"] = "sampled"
    """``sampled``: drafts are drawn from an estimate of the policy and verified with it.
    ``point_mass``: the likeliest path. ``off``: trees are fed but nothing is drafted."""

    soft_targets: bool = True
    """Keep the policy's own top probabilities with each token; costs about 16 bytes a token."""

    min_survival: Annotated[float, Field(ge=0, le=1)] | None = None
    """Unset: the governor decides from measured step time how much to draft. A number: draft in
    every step, whatever it costs, until the chance that all of a draft is accepted falls below."""

    max_tree_bytes: Annotated[int, Field(ge=2**20)] = 2 * 2**30
    """Resident bytes of all trees in this engine; least recently used prompts go first."""

    max_recent_positions: Annotated[int, Field(ge=1, le=1024)] = 32
    """Earlier positions looked at per context order; more is slower and drafts slightly better."""

    num_threads: Annotated[int, Field(ge=0, le=64)] = 0
    """That draft for a large batch, 64 rows each or more; 0: a quarter of the cores that this
    process may use, at most 8."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the draws that make sampled drafts."""

    cache_url: str | None = None
    """Redis-protocol server that shares trees between engines; unset: this engine keeps its own."""

    cache_id: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9-]+$")] = (
        "default"
    )
    """Names the shared cache on that server."""

    num_shards: Annotated[int, Field(ge=1, le=1024)] = 16
    """Shards of the shared cache; the same for everyone who uses it."""

    cache_secret_file: Path | None = None
    """File with the secret that keys prompt digests (1..64 bytes); required with ``cache_url``."""

    flush_interval_seconds: Annotated[float, Field(gt=0, le=10)] = 0.02
    """How often sampled tokens are published."""

    apply_slice_tokens: Annotated[int, Field(ge=1)] = 256
    """Most tokens of other engines applied before the next engine step may go on."""
