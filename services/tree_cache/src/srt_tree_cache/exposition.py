"""A replica's stats as Prometheus text, for scrapers without a collector. Pure."""

from __future__ import annotations

from typing import Final

from srt_common.messages.tree_cache import CacheStats
from srt_common.telemetry import names

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_UNIT_SUFFIX = {"By": "_bytes", "s": "_seconds"}


def exposition(stats: CacheStats) -> str:
    """Every number of ``stats`` under the name it has in OpenTelemetry, as Prometheus spells it."""
    gauges = (
        (names.METRIC_TREE_PROMPTS, stats.num_prompts),
        (names.METRIC_TREE_TOKENS, stats.num_tokens),
        (names.METRIC_TREE_RUN_AHEAD_TOKENS, stats.num_run_ahead_tokens),
        (names.METRIC_TREE_RUN_AHEAD_TOKENS_USED, stats.num_run_ahead_tokens_used),
        (names.METRIC_TREE_MEMORY, stats.memory_bytes),
        (names.METRIC_LOG_LAG, stats.log_lag_seconds),
        (names.METRIC_CACHE_OWNED_SHARDS, len(stats.owned_shards)),
    )
    counters = (
        (names.METRIC_LOG_REJECTED, stats.num_rejected),
        (names.METRIC_STORE_ERRORS, stats.num_unavailable),
        (names.METRIC_CACHE_LEASES_LOST, stats.num_leases_lost),
        (names.METRIC_CACHE_SNAPSHOTS, stats.num_snapshots),
        (names.METRIC_CACHE_EVICTED_PROMPTS, stats.num_evicted_prompts),
    )
    lines = [_lines(metric, value, "gauge", "") for metric, value in gauges]
    lines += [_lines(metric, value, "counter", "_total") for metric, value in counters]
    return "".join(lines)


def _lines(metric: tuple[str, str], value: float, kind: str, suffix: str) -> str:
    name, unit = metric
    spelled = name.replace(".", "_") + _UNIT_SUFFIX.get(unit, "") + suffix
    return f"# TYPE {spelled} {kind}\n{spelled} {value}\n"
