"""The lines of ``metrics.jsonl`` and the summary: what is counted where."""

from __future__ import annotations

from typing import Any

import pytest

from srt_trainer.policy import UpdateStatistics
from srt_trainer.report_lines import eval_line, step_line, summary
from srt_trainer.rollouts import StepRecord
from support.trainer_jobs import rollout

STATISTICS = UpdateStatistics(
    loss=0.5,
    grad_norm=1.0,
    learning_rate=1e-3,
    kl=None,
    clip_low_fraction=0.0,
    clip_high_fraction=0.1,
    entropy=2.0,
    sampler_log_prob_difference_mean=1e-6,
    sampler_log_prob_difference_max=1e-5,
)


def line_of_step(step: int, num_tokens: int = 9, **seconds: float | None) -> dict[str, Any]:
    record = StepRecord(
        step=step,
        rollouts=[rollout(range(num_tokens), num_request_steps=4, num_draft_tokens=10)] * 2,
        rewards=[1.0, 0.0],
        rollout_seconds=2.0,
        reward_seconds=0.25,
    )
    known: dict[str, float | None] = {
        "train_seconds": 1.0,
        "weight_sync_seconds": 0.5,
        "step_seconds": 4.0,
    }
    return step_line(record, STATISTICS, {**known, **seconds})


def line_of_eval(step: int, accuracy: float) -> dict[str, Any]:
    rewards = [1.0] * round(10 * accuracy) + [0.0] * round(10 * (1 - accuracy))
    return eval_line(step, [rollout(range(5), num_request_steps=2)] * 10, rewards, seconds=1.0)


def test_a_step_line_holds_every_promised_number() -> None:
    line = line_of_step(3)
    assert line["kind"] == "step"
    assert line["step"] == line["policy_version"] == 3
    promised = """
        reward_mean accuracy loss kl clip_low_fraction clip_high_fraction grad_norm entropy
        completion_length_mean completion_length_max sampler_log_prob_difference_mean
        sampler_log_prob_difference_max rollout_seconds reward_seconds train_seconds
        weight_sync_seconds step_seconds num_rollouts num_generated_tokens num_request_steps
        num_draft_tokens num_accepted_tokens tokens_per_step num_prompt_tokens num_retries
    """
    assert set(promised.split()) <= line.keys()


def test_an_eval_line_keeps_its_counts_apart() -> None:
    line = line_of_eval(6, 0.3)
    assert line["kind"] == "eval"
    assert line["eval_accuracy"] == 0.3
    assert line["eval_samples"] == 10
    assert all(
        name.startswith("eval_") for name in line.keys() - {"kind", "step", "policy_version"}
    )


def test_the_summary_adds_steps_up_and_evaluations_apart() -> None:
    lines = [
        line_of_eval(0, 0.2),
        line_of_step(0, step_seconds=3.0),
        line_of_step(1, step_seconds=None, weight_sync_seconds=None),
        line_of_step(2, num_tokens=17, step_seconds=9.0),
        line_of_eval(3, 0.6),
    ]
    result = summary("tiny", lines)
    assert result["job"] == "tiny"
    assert result["steps"] == result["policy_version"] == 3
    assert result["num_rollouts"] == 6
    assert result["num_generated_tokens"] == 2 * (9 + 9 + 17)
    assert result["eval_num_generated_tokens"] == 100
    assert result["rollout_seconds"] == 6.0
    assert result["weight_sync_seconds"] == 1.0
    assert result["step_seconds"] == 6.0
    assert result["tokens_per_step"] == pytest.approx(2 * (8 + 8 + 16) / 24)
    assert result["tokens_per_step_last_third"] == pytest.approx(4.0)
    assert result["acceptance_rate"] == 0.0
    assert result["eval_accuracy_start"] == 0.2
    assert result["eval_accuracy_end"] == 0.6
    assert result["eval_samples"] == 10


def test_a_job_without_evaluation_has_no_accuracy() -> None:
    result = summary("tiny", [line_of_step(0)])
    assert "eval_accuracy_start" not in result
    assert result["tokens_per_step_last_third"] == result["tokens_per_step"]
