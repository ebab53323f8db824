"""What came out of a run: ``summary.json``, made from the run's line files. Pure.

* Counts are over training steps; evaluations are apart.
* Seconds of rollouts are summed, seconds of a step are a median.
* Line files that grow over several sessions (a resumed run) carry running totals of each session:
  the last line of each session counts, and sessions add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from srt_operator import intervals
from srt_operator.run_lines import Line, of_kind

Summary = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The line files of one arm."""

    metrics: Sequence[Line]
    engines: Sequence[Line] = ()
    bubbles: Sequence[Line] = ()


def arm_summary(record: RunRecord, *, is_srt: bool) -> Summary:
    """One arm; a stock one has no trees to report on."""
    steps = of_kind(list(record.metrics), "step")
    result = {
        "steps": len(steps),
        **_accuracy(record.metrics),
        "rollout_seconds": _sum(steps, "rollout_seconds"),
        "train_seconds": _median(steps, "train_seconds"),
        "step_seconds": _median(steps, "step_seconds"),
        "tokens_per_step": tokens_per_step(steps),
        "tokens_per_step_last_third": tokens_per_step(steps[2 * len(steps) // 3 :]),
        "acceptance_rate": acceptance_rate(steps),
        "num_rollouts": _sum(steps, "num_rollouts"),
        "num_generated_tokens": _sum(steps, "num_generated_tokens"),
    }
    if is_srt:
        result |= _drafting(record)
        result["runahead"] = runahead_summary(record)
    return result


def comparison(off: Summary, on: Summary) -> Summary:
    """How the arm with SRT did against the one without."""
    return {
        "rollout_speedup": _ratio(off["rollout_seconds"], on["rollout_seconds"]),
        "step_speedup": _ratio(off["step_seconds"], on["step_seconds"]),
        "train_slowdown": _ratio(on["train_seconds"], off["train_seconds"]),
        "accuracy_difference": accuracy_difference(off, on),
    }


def accuracy_difference(off: Summary, on: Summary) -> Summary | None:
    """On minus off at the end; None without evaluations. The 95 % interval is of the evaluations'
    samples, not of how far two trainings of one setting end apart.
    """
    names = ("eval_accuracy_end", "eval_samples")
    if any(arm.get(name) is None for arm in (off, on) for name in names):
        return None
    first, second = off["eval_accuracy_end"], on["eval_accuracy_end"]
    low, high = intervals.difference(first, off["eval_samples"], second, on["eval_samples"])
    return {"value": second - first, "low": low, "high": high, "includes_zero": low <= 0 <= high}


def runahead_summary(record: RunRecord) -> Summary:
    """What run-ahead did, and what the trainer's steps took with and without it."""
    totals = session_total(of_kind(list(record.bubbles), "runahead"), "totals")
    bubbles = of_kind(list(record.bubbles), "bubble")
    waits = [
        wait
        for line in last_of_sessions(of_kind(list(record.bubbles), "runahead"))
        for wait in line.get("abort_seconds", ())
    ]
    return {
        "chunks": totals.get("num_chunks", 0),
        "tokens": totals.get("num_tokens", 0),
        "tokens_drafted_from": totals.get("num_tokens_drafted_from", 0),
        "completed": totals.get("num_completed", 0),
        "aborted": totals.get("num_aborted", 0),
        "expired": totals.get("num_expired", 0),
        "failed": totals.get("num_failed", 0),
        "abort_seconds_p99": percentile(waits, 0.99),
        "bubbles": len(bubbles),
        "bubble_seconds": _sum(bubbles, "seconds"),
        "bubble_filled_fraction": _ratio(
            _sum(bubbles, "run_ahead_slot_seconds"), _sum(bubbles, "free_slot_seconds")
        ),
        **_cost_to_trainer(record, bubbles),
    }


def tokens_per_step(lines: Sequence[Line]) -> float | None:
    """Generated tokens per request-step over step lines; first tokens come from prefill."""
    num_tokens = sum(line["num_generated_tokens"] - line["num_rollouts"] for line in lines)
    return _ratio(num_tokens, sum(line["num_request_steps"] for line in lines))


def acceptance_rate(lines: Sequence[Line]) -> float | None:
    """Accepted per drafted token over step lines."""
    return _ratio(_sum(lines, "num_accepted_tokens"), _sum(lines, "num_draft_tokens"))


def session_total(lines: Sequence[Line], field: str) -> dict[str, int]:
    """Sum over sessions of the running totals in ``field``."""
    total: dict[str, int] = {}
    for line in last_of_sessions(lines):
        for name, value in line[field].items():
            total[name] = total.get(name, 0) + value
    return total


def last_of_sessions(lines: Iterable[Line]) -> list[Line]:
    """The last line of each session."""
    return list({line["session"]: line for line in lines}.values())


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _accuracy(metrics: Sequence[Line]) -> Summary:
    evals = sorted(of_kind(list(metrics), "eval"), key=lambda line: line["step"])
    if not evals:
        return {"eval_accuracy_start": None, "eval_accuracy_end": None, "eval_samples": None}
    return {
        "eval_accuracy_start": evals[0]["eval_accuracy"],
        "eval_accuracy_end": evals[-1]["eval_accuracy"],
        "eval_samples": evals[-1]["eval_samples"],
    }


def _drafting(record: RunRecord) -> Summary:
    """From the engines' own counters, evaluations included."""
    total: dict[str, int] = {}
    for line in last_of_sessions(record.engines):
        for counts in line["engines"].values():
            for name, value in counts.items():
                total[name] = total.get(name, 0) + value
    accepted = total.get("num_accepted_tokens", 0)
    sources = ("history", "online", "run_ahead")
    return {
        "remote_draft_fraction": _ratio(
            total.get("num_remote_draft_tokens", 0), total.get("num_draft_tokens", 0)
        ),
        "cache_hit_fraction": _ratio(total.get("num_hits", 0), total.get("num_lookups", 0)),
        "accepted_fraction_by_source": {
            source: _ratio(total.get(f"num_accepted_{source}", 0), accepted) for source in sources
        },
    }


def _cost_to_trainer(record: RunRecord, bubbles: Sequence[Line]) -> Summary:
    """Steps during whose training run-ahead was allowed, against the others of the same arm.

    On a machine that trainer and engines share, run-ahead takes time from the trainer.
    """
    field = "run_ahead_slot_seconds_in_training"
    filled = {line["step"] for line in bubbles if line.get(field, 0) > 0}
    steps = of_kind(list(record.metrics), "step")
    groups: Mapping[str, list[Line]] = {
        "with": [line for line in steps if line["step"] in filled],
        "without": [line for line in steps if line["step"] not in filled],
    }
    result: Summary = {}
    for name, lines in groups.items():
        result[f"steps_{name}"] = len(lines)
        result[f"step_seconds_{name}"] = _median(lines, "step_seconds")
        result[f"train_seconds_{name}"] = _median(lines, "train_seconds")
    return result


def _sum(lines: Iterable[Line], name: str) -> Any:
    return sum(line.get(name) or 0 for line in lines)


def _median(lines: Iterable[Line], name: str) -> float | None:
    values = [line[name] for line in lines if line.get(name) is not None]
    return median(values) if values else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
