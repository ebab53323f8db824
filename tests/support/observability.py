"""The queries of the chart's dashboard and alerts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

FILES: Final = Path(__file__).parents[2] / "charts" / "srt" / "files"


def alerts() -> list[dict[str, Any]]:
    """The rules."""
    (group,) = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def queries() -> dict[str, str]:
    """Every expression, by where it is."""
    board = json.loads((FILES / "dashboard.json").read_text())
    found = {
        f"{panel['title']}/{target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel["targets"]
    }
    return found | {rule["alert"]: rule["expr"] for rule in alerts()}


def measured(query: str, *, rate_interval: str) -> str:
    """What a query looks at: without an alert's threshold, with Grafana's variable filled in."""
    return re.sub(r" (?:==|<|>) [0-9.]+", "", query.replace("$__rate_interval", rate_interval))
