"""What a summary says in rows and sentences, for the terminal and the report alike. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from srt_operator.summary import Summary

Shown = Callable[[Any], str]


def _number(spec: str) -> Shown:
    return lambda value: "-" if value is None else format(value, spec)


ROWS: Final[Mapping[str, tuple[str, Shown]]] = {
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
RUN_AHEAD_ROWS: Final[Mapping[str, tuple[str, Shown]]] = {
    "chunks": ("run-ahead chunks", _number("d")),
    "tokens": ("run-ahead tokens", _number("d")),
    "tokens_drafted_from": ("of them drafted from", _number("d")),
    "aborted": ("chunks aborted", _number("d")),
    "abort_seconds_p99": ("abort seconds, p99", _number(".3f")),
    "bubble_seconds": ("bubble seconds", _number(".1f")),
    "bubble_filled_fraction": ("bubble filled", _number(".1%")),
}
NAMES: Final = {"off": "SRT off", "on": "SRT on"}


def arm_rows(summary: Summary) -> list[list[str]]:
    """The arms side by side; the first row is the heading. Rows that no arm fills are left out."""
    arms = summary["arms"]
    rows = [["", *(NAMES[arm] for arm in arms)]]
    for name, (label, shown) in ROWS.items():
        rows.append([label, *(shown(arm.get(name)) for arm in arms.values())])
    for name, (label, shown) in RUN_AHEAD_ROWS.items():
        cells = [shown(arm.get("runahead", {}).get(name)) for arm in arms.values()]
        rows.append([label, *cells])
    return [row for row in rows if any(cell != "-" for cell in row[1:])]


def conclusion(summary: Summary) -> str:
    """A comparison in a few sentences; empty for a single arm."""
    found = summary.get("comparison")
    if found is None:
        return ""
    parts = []
    if found["rollout_speedup"] is not None:
        parts.append(f"Rollouts ran {found['rollout_speedup']:.2f}x as fast with SRT.")
    if found["train_slowdown"] is not None:
        change = found["train_slowdown"] - 1
        parts.append(f"A training step took {change:+.0%} time beside SRT on the same cores.")
    difference = found["accuracy_difference"]
    if difference is not None:
        parts.append(
            f"Accuracy differs by {difference['value']:+.1%} (95 % interval of the evaluations' "
            f"samples {difference['low']:+.1%} to {difference['high']:+.1%}; two trainings of one "
            "setting end further apart than that)."
        )
    return " ".join(parts)
