"""The lines of ``metrics.jsonl`` and the summary made from them. Pure.

* ``{"kind": "step", ...}``: one for each finished step. ``{"kind": "eval", ...}``: one for each
  evaluation; its ``step`` is the number of steps finished before it.
* Counts of evaluations have the prefix ``eval_`` and are in no count of the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, TypeAlias

from srt_trainer.policy import UpdateStatistics
from srt_trainer.rollout_statistics import fraction, reward_statistics, rollout_statistics
from srt_trainer.rollouts import Rollout, StepRecord

Line: TypeAlias = dict[str, Any]

SUMMED = (
    "num_rollouts",
    "num_prompt_tokens",
    "num_generated_tokens",
    "num_request_steps",
    "num_draft_tokens",
    "num_accepted_tokens",
    "num_retries",
)
SUMMED_SECONDS = ("rollout_seconds", "reward_seconds", "train_seconds", "weight_sync_seconds")


def step_line(
    record: StepRecord, statistics: UpdateStatistics, seconds: Mapping[str, float | None]
) -> Line:
    """What is reported of a finished step.

    Args:
        record: its rollouts and rewards.
        statistics: of its update.
        seconds: ``train_seconds``, ``weight_sync_seconds`` and ``step_seconds``; None where a crash
            took them.
    """
    return {
        "kind": "step",
        "step": record.step,
        "policy_version": record.step,
        **reward_statistics(record.rewards),
        **asdict(statistics),
        **rollout_statistics(record.rollouts),
        "rollout_seconds": record.rollout_seconds,
        "reward_seconds": record.reward_seconds,
        **seconds,
    }


def eval_line(
    step: int, rollouts: Sequence[Rollout], rewards: Sequence[float | None], *, seconds: float
) -> Line:
    """What is reported of an evaluation after ``step`` finished steps."""
    numbers: Line = {
        **reward_statistics(rewards),
        **rollout_statistics(rollouts),
        "samples": len(rollouts),
        "seconds": seconds,
    }
    prefixed = {f"eval_{name}": value for name, value in numbers.items()}
    return {"kind": "eval", "step": step, "policy_version": step, **prefixed}


def summary(job: str, lines: Sequence[Line]) -> Line:
    """What a finished run amounts to; evaluations are counted apart."""
    steps = [line for line in lines if line["kind"] == "step"]
    evals = sorted(
        (line for line in lines if line["kind"] == "eval"), key=lambda line: line["step"]
    )
    result: Line = {"job": job, "steps": len(steps), "policy_version": len(steps)}
    for name in (*SUMMED, *SUMMED_SECONDS):
        result[name] = sum(line[name] or 0 for line in steps)
    for name in SUMMED:
        result[f"eval_{name}"] = sum(line[f"eval_{name}"] for line in evals)
    step_seconds = [line["step_seconds"] for line in steps if line["step_seconds"] is not None]
    result["step_seconds"] = median(step_seconds) if step_seconds else None
    result["tokens_per_step"] = tokens_per_step(steps)
    result["tokens_per_step_last_third"] = tokens_per_step(steps[2 * len(steps) // 3 :])
    result["acceptance_rate"] = fraction(result["num_accepted_tokens"], result["num_draft_tokens"])
    if evals:
        result["eval_accuracy_start"] = evals[0]["eval_accuracy"]
        result["eval_accuracy_end"] = evals[-1]["eval_accuracy"]
        result["eval_samples"] = evals[-1]["eval_samples"]
    return result


def tokens_per_step(steps: Sequence[Line]) -> float | None:
    """Generated tokens per request-step over the given step lines, first tokens left out."""
    num_tokens = sum(line["num_generated_tokens"] - line["num_rollouts"] for line in steps)
    return fraction(num_tokens, sum(line["num_request_steps"] for line in steps))
