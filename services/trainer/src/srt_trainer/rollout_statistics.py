"""The numbers of a batch of rollouts that are reported per step and per evaluation. Pure.

* Tokens per step = generated tokens / request-steps; a rollout's first token comes from prefill and
  counts in neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from srt_trainer.rollouts import Rollout


class RolloutStatistics(TypedDict):
    """Counts are sums over the rollouts; None where nothing was counted."""

    num_rollouts: int
    num_prompt_tokens: int
    num_generated_tokens: int
    completion_length_mean: float
    completion_length_max: int
    truncated_fraction: float
    num_request_steps: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_retries: int
    tokens_per_step: float | None
    acceptance_rate: float | None


class RewardStatistics(TypedDict):
    """Over the rollouts that could be scored."""

    reward_mean: float | None
    accuracy: float | None
    """Share of rewards that are 1."""
    num_unscored: int


def rollout_statistics(rollouts: Sequence[Rollout]) -> RolloutStatistics:
    """Sum up a non-empty batch."""
    lengths = [rollout.num_tokens for rollout in rollouts]
    num_request_steps = sum(rollout.num_request_steps for rollout in rollouts)
    num_draft_tokens = sum(rollout.num_draft_tokens for rollout in rollouts)
    num_accepted_tokens = sum(rollout.num_accepted_tokens for rollout in rollouts)
    num_truncated = sum(rollout.finish_reason == "length" for rollout in rollouts)
    return RolloutStatistics(
        num_rollouts=len(rollouts),
        num_prompt_tokens=sum(rollout.num_prompt_tokens for rollout in rollouts),
        num_generated_tokens=sum(lengths),
        completion_length_mean=sum(lengths) / len(rollouts),
        completion_length_max=max(lengths),
        truncated_fraction=num_truncated / len(rollouts),
        num_request_steps=num_request_steps,
        num_draft_tokens=num_draft_tokens,
        num_accepted_tokens=num_accepted_tokens,
        num_retries=sum(rollout.num_retries for rollout in rollouts),
        tokens_per_step=fraction(sum(lengths) - len(rollouts), num_request_steps),
        acceptance_rate=fraction(num_accepted_tokens, num_draft_tokens),
    )


def reward_statistics(rewards: Sequence[float | None]) -> RewardStatistics:
    """Sum up the rewards of a batch."""
    known = [reward for reward in rewards if reward is not None]
    return RewardStatistics(
        reward_mean=fraction(sum(known), len(known)),
        accuracy=fraction(sum(reward == 1 for reward in known), len(known)),
        num_unscored=len(rewards) - len(known),
    )


def fraction(part: float, whole: int) -> float | None:
    """``part / whole``, or None when the whole is 0."""
    return part / whole if whole else None
