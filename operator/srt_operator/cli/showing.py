"""How jobs are shown, wherever they run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from srt_operator.cli.targets import Output

Document = dict[str, Any]


def show_jobs(jobs: Sequence[Document], output: Output, *, is_list: bool) -> None:
    """SRTJobs with their status, in the order given."""
    if output in (Output.JSON, Output.YAML):
        document: Any = jobs[0]
        if is_list:
            document = {"apiVersion": "v1", "kind": "List", "items": list(jobs)}
        text = json.dumps(document, indent=2)
        typer.echo(text if output is Output.JSON else yaml.safe_dump(document, sort_keys=False))
        return
    wide = ("RUN-AHEAD", "MESSAGE") if output is Output.WIDE else ()
    table = Table("NAME", "PHASE", "STEP", "ROLLOUT", "HITRATE", *wide, box=None)
    for job in jobs:
        table.add_row(job["metadata"]["name"], *_cells(job, is_wide=bool(wide)))
    Console().print(table)


def line_of(job: Mapping[str, Any]) -> str:
    """How a job stands, in one line."""
    phase, step, rollout, hit_rate = _cells(job, is_wide=False)
    parts = [phase, f"step {step}" if step else "", f"engines {rollout}" if rollout else ""]
    parts += [f"hit rate {hit_rate}" if hit_rate else "", _message(job)]
    return ", ".join(part for part in parts if part)


def _cells(job: Mapping[str, Any], *, is_wide: bool) -> list[str]:
    status = job.get("status", {})
    cells = [
        status.get("phase", "Pending"),
        status.get("progress", {}).get("display", ""),
        status.get("rollout", {}).get("display", ""),
        status.get("cache", {}).get("hitRate", ""),
    ]
    if is_wide:
        cells += [str(status.get("runAhead", {}).get("completed", 0)), _message(job)]
    return cells


def _message(job: Mapping[str, Any]) -> str:
    """Why it is not ready, if it is not."""
    for condition in job.get("status", {}).get("conditions", ()):
        is_telling = condition["type"].endswith("Ready") or condition["type"] == "Accepted"
        if is_telling and condition["status"] == "False" and condition.get("message"):
            return str(condition["message"])
    return ""
