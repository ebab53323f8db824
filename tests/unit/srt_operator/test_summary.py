"""The summary: what is summed and what is a median, sessions added up, and how two arms compare."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_operator.intervals import difference, wilson
from srt_operator.run_lines import Line
from srt_operator.summary import (
    RunRecord,
    Summary,
    accuracy_difference,
    arm_summary,
    comparison,
    percentile,
)


def step(number: int, **fields: object) -> Line:
    line: Line = {
        "kind": "step",
        "step": number,
        "rollout_seconds": 2.0,
        "train_seconds": 1.0,
        "step_seconds": 4.0,
        "num_rollouts": 10,
        "num_generated_tokens": 110,
        "num_request_steps": 50,
        "num_draft_tokens": 80,
        "num_accepted_tokens": 50,
    }
    return line | fields


def evaluation(number: int, accuracy: float) -> Line:
    return {"kind": "eval", "step": number, "eval_accuracy": accuracy, "eval_samples": 512}


def engines(session: float, **counts: int) -> Line:
    return {"session": session, "engines": {"rollout-0": counts, "rollout-1": counts}}


def run_ahead(session: float, *waits: float, **totals: int) -> Line:
    names = {f"num_{name}": value for name, value in totals.items()}
    return {"kind": "runahead", "session": session, "totals": names, "abort_seconds": list(waits)}


def bubble(step: int, **fields: float) -> Line:
    base = {
        "kind": "bubble",
        "step": step,
        "seconds": 2.0,
        "free_slot_seconds": 20.0,
        "run_ahead_slot_seconds": 5.0,
        "run_ahead_slot_seconds_in_training": 5.0,
    }
    return base | fields


def test_an_arm_sums_rollouts_and_takes_medians_of_steps() -> None:
    metrics = [
        evaluation(0, 0.25),
        step(0, step_seconds=9.0),
        step(1, num_request_steps=25),
        step(2, num_request_steps=20, rollout_seconds=1.0),
        evaluation(3, 0.75),
    ]
    arm = arm_summary(RunRecord(metrics=metrics), is_srt=False)
    assert arm["steps"] == 3
    assert (arm["eval_accuracy_start"], arm["eval_accuracy_end"]) == (0.25, 0.75)
    assert arm["eval_samples"] == 512
    assert arm["rollout_seconds"] == 5.0
    assert arm["step_seconds"] == 4.0
    assert arm["tokens_per_step"] == pytest.approx(300 / 95)
    assert arm["tokens_per_step_last_third"] == pytest.approx(100 / 20)
    assert arm["acceptance_rate"] == pytest.approx(150 / 240)
    assert (arm["num_rollouts"], arm["num_generated_tokens"]) == (30, 330)
    assert "runahead" not in arm


def test_an_arm_without_a_step_has_no_numbers_and_no_error() -> None:
    arm = arm_summary(RunRecord(metrics=[]), is_srt=True)
    assert arm["steps"] == 0
    assert arm["tokens_per_step"] is None
    assert arm["eval_accuracy_end"] is None
    assert arm["remote_draft_fraction"] is None
    assert arm["runahead"]["bubble_filled_fraction"] is None
    assert arm["runahead"]["abort_seconds_p99"] is None


def test_the_last_reading_of_each_session_counts() -> None:
    record = RunRecord(
        metrics=[step(0)],
        engines=[
            engines(1.0, num_draft_tokens=5, num_remote_draft_tokens=1),
            engines(1.0, num_draft_tokens=10, num_remote_draft_tokens=4),
            engines(2.0, num_draft_tokens=10, num_remote_draft_tokens=0, num_lookups=4, num_hits=3),
        ],
        bubbles=[
            run_ahead(1.0, 0.1, chunks=1, tokens=10),
            run_ahead(1.0, 0.1, 0.2, chunks=3, tokens=50, tokens_drafted_from=20, aborted=2),
            bubble(0),
            run_ahead(2.0, 0.4, chunks=2, tokens=5, aborted=1),
        ],
    )
    arm = arm_summary(record, is_srt=True)
    assert arm["remote_draft_fraction"] == pytest.approx(8 / 40)
    assert arm["cache_hit_fraction"] == pytest.approx(3 / 4)
    ahead = arm["runahead"]
    assert (ahead["chunks"], ahead["tokens"], ahead["tokens_drafted_from"]) == (5, 55, 20)
    assert ahead["aborted"] == 3
    assert ahead["abort_seconds_p99"] == 0.4
    assert ahead["bubble_seconds"] == 2.0
    assert ahead["bubble_filled_fraction"] == pytest.approx(0.25)


def test_steps_that_trained_beside_run_ahead_are_told_apart() -> None:
    record = RunRecord(
        metrics=[step(0, train_seconds=1.0), step(1, train_seconds=3.0), step(2)],
        bubbles=[bubble(1), bubble(2, run_ahead_slot_seconds_in_training=0.0)],
    )
    ahead = arm_summary(record, is_srt=True)["runahead"]
    assert (ahead["steps_with"], ahead["train_seconds_with"]) == (1, 3.0)
    assert (ahead["steps_without"], ahead["train_seconds_without"]) == (2, 1.0)
    assert ahead["step_seconds_with"] == 4.0


def arm(**fields: object) -> Summary:
    base: Summary = {
        "rollout_seconds": 30.0,
        "step_seconds": 6.0,
        "train_seconds": 2.0,
        "eval_accuracy_end": 0.5,
        "eval_samples": 512,
    }
    return base | fields


def test_arms_are_compared_off_over_on() -> None:
    found = comparison(arm(), arm(rollout_seconds=15.0, step_seconds=4.0, train_seconds=2.5))
    assert found["rollout_speedup"] == 2.0
    assert found["step_speedup"] == 1.5
    assert found["train_slowdown"] == 1.25


def test_equal_accuracies_differ_by_an_interval_around_zero() -> None:
    found = accuracy_difference(arm(), arm())
    assert found is not None
    assert found["value"] == 0
    assert found["includes_zero"]
    assert found["low"] == pytest.approx(-found["high"])


def test_clearly_different_accuracies_exclude_zero() -> None:
    found = accuracy_difference(arm(), arm(eval_accuracy_end=0.7))
    assert found is not None
    assert found["value"] == pytest.approx(0.2)
    assert found["low"] > 0.1
    assert not found["includes_zero"]


def test_without_evaluations_there_is_no_difference() -> None:
    assert accuracy_difference(arm(eval_accuracy_end=None), arm()) is None


def test_intervals_agree_with_published_examples() -> None:
    """Newcombe 1998: 56 of 70 against 48 of 80, method 10."""
    low, high = difference(48 / 80, 80, 56 / 70, 70)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert wilson(0.0, 10)[0] == 0.0
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)


@given(st.integers(0, 50), st.integers(0, 50))
def test_an_interval_holds_what_was_seen_and_turns_with_the_arms(first: int, second: int) -> None:
    low, high = difference(first / 50, 50, second / 50, 50)
    seen = (second - first) / 50
    assert low - 1e-12 <= seen <= high + 1e-12
    turned = difference(second / 50, 50, first / 50, 50)
    assert turned == pytest.approx((-high, -low))


@given(st.lists(st.floats(0, 10), min_size=1))
def test_a_percentile_is_one_of_the_values(values: list[float]) -> None:
    assert percentile(values, 0.99) in values
    assert percentile([], 0.5) is None
    assert percentile(values, 1.0) == max(values)
