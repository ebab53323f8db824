"""The numbers that are reported of rollouts and rewards."""

from __future__ import annotations

import pytest

from srt_trainer.rollout_statistics import (
    fraction,
    reward_statistics,
    rollout_statistics,
)
from support.trainer_jobs import rollout


def test_counts_are_sums_and_first_tokens_are_left_out_of_tokens_per_step() -> None:
    numbers = rollout_statistics(
        [
            rollout(
                range(11),
                num_request_steps=4,
                num_draft_tokens=9,
                num_accepted_tokens=6,
                num_retries=1,
            ),
            rollout(range(3), prompt=[1], finish_reason="length", num_request_steps=2),
        ]
    )
    assert numbers == {
        "num_rollouts": 2,
        "num_prompt_tokens": 4,
        "num_generated_tokens": 14,
        "completion_length_mean": 7.0,
        "completion_length_max": 11,
        "truncated_fraction": 0.5,
        "num_request_steps": 6,
        "num_draft_tokens": 9,
        "num_accepted_tokens": 6,
        "num_retries": 1,
        "tokens_per_step": 2.0,
        "acceptance_rate": pytest.approx(2 / 3),
    }


def test_what_was_not_counted_has_no_rate() -> None:
    numbers = rollout_statistics([rollout([1])])
    assert numbers["tokens_per_step"] is None
    assert numbers["acceptance_rate"] is None
    assert fraction(0, 0) is None


def test_accuracy_is_the_share_of_full_rewards_among_those_that_could_be_scored() -> None:
    assert reward_statistics([1.0, 0.5, None, 0.0]) == {
        "reward_mean": 0.5,
        "accuracy": pytest.approx(1 / 3),
        "num_unscored": 1,
    }
    assert reward_statistics([None])["accuracy"] is None
