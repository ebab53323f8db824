"""Tables that `srt` ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from rich.table import Table

from srt_operator.summary import Summary


def _number(spec: str) -> Callable[[Any], str]:
    return lambda value: "-" if value is None else format(value, spec)


ROWS: Final[Mapping[str, tuple[str, Callable[[Any], str]]]] = {
    "steps": ("steps", _number("d")),
    "eval_accuracy_start": ("accuracy before", _number(".1%")),
    "eval_accuracy_end": ("accuracy after", _number(".1%")),
    "rollout_seconds": ("rollout seconds, all steps", _number(".1f")),
    "train_seconds": ("train seconds, median step", _number(".2f")),
    "step_seconds": ("step seconds, median", _number(".2f")),
    "tokens_per_step": ("tokens per step", _number(".2f")),
    "tokens_per_step_last_third": ("tokens per step, last third", _number(".2f")),
    "acceptance_rate": ("drafted tokens accepted", _number(".1%")),
    "num_rollouts": ("rollouts", _number("d")),
    "num_generated_tokens": ("generated tokens", _number("d")),
    "remote_draft_fraction": ("drafted from other engines", _number(".1%")),
}
RUN_AHEAD_ROWS: Final[Mapping[str, tuple[str, Callable[[Any], str]]]] = {
    "chunks": ("run-ahead chunks", _number("d")),
    "tokens": ("run-ahead tokens", _number("d")),
    "tokens_drafted_from": ("of them drafted from", _number("d")),
    "aborted": ("chunks aborted", _number("d")),
    "abort_seconds_p99": ("abort seconds, p99", _number(".3f")),
    "bubble_seconds": ("bubble seconds", _number(".1f")),
    "bubble_filled_fraction": ("bubble filled", _number(".1%")),
}
NAMES: Final = {"off": "SRT off", "on": "SRT on"}


def arms_table(summary: Summary) -> Table:
    """The arms of a run side by side."""
    table = Table(title=summary["job"])
    table.add_column("")
    arms = summary["arms"]
    for arm in arms:
        table.add_column(NAMES[arm], justify="right")
    for name, (label, shown) in ROWS.items():
        _add_row(table, label, [shown(arm.get(name)) for arm in arms.values()])
    for name, (label, shown) in RUN_AHEAD_ROWS.items():
        values = [
            shown(arm["runahead"][name]) if "runahead" in arm else "-" for arm in arms.values()
        ]
        _add_row(table, label, values)
    return table


def conclusion(summary: Summary) -> str:
    """The comparison in one or two sentences; empty for a single arm."""
    found = summary.get("comparison")
    if found is None:
        return ""
    parts = []
    if found["rollout_speedup"] is not None:
        parts.append(f"Rollouts took {found['rollout_speedup']:.2f}x less time with SRT.")
    if found["train_slowdown"] is not None:
        change = found["train_slowdown"] - 1
        parts.append(f"Training took {change:+.0%} beside run-ahead on the same cores.")
    difference = found["accuracy_difference"]
    if difference is not None:
        parts.append(
            f"Accuracy differs by {difference['value']:+.1%} "
            f"(95 % interval {difference['low']:+.1%} to {difference['high']:+.1%})."
        )
    return " ".join(parts)


def _add_row(table: Table, label: str, values: list[str]) -> None:
    if any(value != "-" for value in values):
        table.add_row(label, *values)
