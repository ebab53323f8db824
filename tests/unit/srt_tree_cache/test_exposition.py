"""Prometheus reads every number under the name that OpenTelemetry's exporter would give it."""

from __future__ import annotations

import re

from srt_common.messages.tree_cache import CacheStats
from srt_tree_cache.exposition import exposition

STATS = CacheStats(
    instance="a",
    is_warm=True,
    num_prompts=1,
    num_sequences=2,
    num_tokens=3,
    num_run_ahead_tokens=4,
    num_run_ahead_tokens_used=5,
    memory_bytes=6,
    log_lag_seconds=0.5,
    num_applied_updates=7,
    num_rejected=8,
    num_gaps=9,
    num_unavailable=10,
    owned_shards=[0, 3],
    num_leases_lost=11,
    num_snapshots=12,
    num_evicted_prompts=13,
)


def test_names_units_and_kinds_are_those_of_prometheus() -> None:
    text = exposition(STATS)
    values = dict(re.findall(r"^(\w+) ([\d.]+)$", text, re.MULTILINE))
    assert values == {
        "srt_tree_prompts": "1",
        "srt_tree_tokens": "3",
        "srt_tree_run_ahead_tokens": "4",
        "srt_tree_run_ahead_tokens_used": "5",
        "srt_tree_memory_bytes": "6",
        "srt_log_lag_seconds": "0.5",
        "srt_cache_owned_shards": "2",
        "srt_log_rejected_total": "8",
        "srt_store_errors_total": "10",
        "srt_cache_leases_lost_total": "11",
        "srt_cache_snapshots_total": "12",
        "srt_cache_evicted_prompts_total": "13",
    }
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    assert set(kinds) == set(values)
    assert {name for name, kind in kinds.items() if kind == "counter"} == {
        name for name in values if name.endswith("_total")
    }
