"""What the tree cache answers over HTTP. Keys are hexadecimal; tokens are never shown."""

from __future__ import annotations

from typing import Literal

import msgspec

STATS_PATH = "/v1/stats"
PROMPTS_PATH = "/v1/prompts"
COVERAGE_PATH = "/v1/coverage"

MAX_COVERAGE_KEYS = 4096


class PromptSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache holds of one prompt; all zero when nothing."""

    prompt_key: str
    num_sequences: int = 0
    num_tokens: int = 0
    num_run_ahead_sequences: int = 0
    num_run_ahead_tokens: int = 0
    num_run_ahead_tokens_used: int = 0
    """Of these, tokens that supplied at least one accepted draft token somewhere."""
    min_policy_version: int = 0
    max_policy_version: int = 0
    memory_bytes: int = 0


class PromptPage(msgspec.Struct, frozen=True):
    """Answer of ``GET /v1/prompts?after=<key>&limit=<n>``: prompts in order of their keys."""

    prompts: list[PromptSummary]
    next_after: str | None
    """Pass it as ``after`` for the next page; None: this was the last one."""


class CoverageRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/coverage``; the answer is a list of summaries in the same order."""

    prompt_keys: list[str]
    """At most `MAX_COVERAGE_KEYS`."""


class PrefetchOutcome(msgspec.Struct, frozen=True):
    """Answer of ``POST /v1/prompts/{key}/prefetch``."""

    result: Literal["hit", "miss"]
    """Hit: the newest tree of the prompt lies in the store. Miss: there is no tree of it."""


class CacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``GET /v1/stats``: one replica."""

    instance: str
    is_warm: bool
    """It has loaded all snapshots and caught up with the log once."""
    num_prompts: int
    num_sequences: int
    num_tokens: int
    num_run_ahead_tokens: int
    num_run_ahead_tokens_used: int
    memory_bytes: int
    log_lag_seconds: float
    """Of the shard that is most behind; grows while the store is away."""
    num_applied_updates: int
    num_rejected: int
    """Log entries and updates that were skipped."""
    num_gaps: int
    """Times a shard was loaded from snapshots because its log had been trimmed."""
    num_unavailable: int
    """Calls that found the store away."""
    owned_shards: list[int]
    num_leases_lost: int
    num_snapshots: int
    num_evicted_prompts: int
