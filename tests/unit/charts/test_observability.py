"""Dashboard and alerts ask for metrics that the suite has, under Prometheus' names for them."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from support.observability import alerts, queries

ROOT = Path(__file__).parents[3]
SUFFIX = {"By": "_bytes", "s": "_seconds", "1": "_ratio"}


DCGM = {"DCGM_FI_DEV_GPU_UTIL"}
DCGM_LABELS = {"pod", "exported_pod"}


def known_series() -> set[str]:
    """Every series of `docs/telemetry/metrics.yaml`, and those of DCGM's exporter that we show."""
    series = set(DCGM)
    for metric in yaml.safe_load((ROOT / "docs" / "telemetry" / "metrics.yaml").read_text()):
        name = metric["name"].replace(".", "_") + SUFFIX.get(metric["unit"], "")
        if metric["instrument"] == "histogram":
            series |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
        else:
            series.add(name + ("_total" if metric["instrument"] == "counter" else ""))
    return series


def known_labels() -> set[str]:
    """Every attribute that a metric has, and what Prometheus adds."""
    metrics = yaml.safe_load((ROOT / "docs" / "telemetry" / "metrics.yaml").read_text())
    ours = {name.replace(".", "_") for metric in metrics for name in metric["attributes"]}
    return ours | DCGM_LABELS | {"le"}


def test_every_query_asks_for_known_series() -> None:
    for where, query in queries().items():
        asked = set(
            re.findall(
                r"\b(?:srt_[a-z_]+|DCGM_[A-Z_]+)(?=[\[{)])", re.sub(r"by \([^)]*\)", "", query)
            )
        )
        assert asked, where
        assert asked <= known_series(), where


def test_every_query_groups_and_selects_by_known_labels() -> None:
    for where, query in queries().items():
        grouped = [
            one.strip() for part in re.findall(r"by \(([^)]*)\)", query) for one in part.split(",")
        ]
        selected = re.findall(r"[{,]\s*([a-z_]+)\s*[=!]", query)
        assert {*grouped, *selected} <= known_labels(), where


def test_hit_rate_and_acceptance_are_different_panels() -> None:
    shown = queries()
    assert "srt_cache_lookups_total" in shown["Cache hit rate/A"]
    assert "srt_cache_lookups_total" not in shown["Acceptance rate/A"]


def test_every_alert_says_what_to_do() -> None:
    for rule in alerts():
        assert {"summary", "action"} <= rule["annotations"].keys(), rule["alert"]
