"""Group relative policy optimisation, as pure functions and one class that holds their settings.

Shapes: N = rollouts of the step, B = rollouts of a micro-batch, T = response tokens of its longest
rollout.

* Parameters are named as in TRL's ``GRPOConfig``; the tests compare loss, gradient and clip
  fractions with TRL.
* The ratio compares the policy with the engine's own log-probabilities of the tokens it sampled.

Source: GRPO arXiv:2402.03300, DAPO (token-level loss, higher upper clip) arXiv:2503.14476,
Dr. GRPO arXiv:2503.20783, sequence-level ratios (GSPO) arXiv:2507.18071.
"""

from __future__ import annotations

from typing import Literal

import torch

from srt_trainer.algorithms.base import LossTerms, StepTotals, TokenBatch
from srt_trainer.settings import GRPOSettings

STD_EPSILON = 1e-4
"""Added to the standard deviation of rewards, as TRL does."""


def group_advantages(
    rewards: torch.Tensor, *, num_generations: int, scale_rewards: Literal["group", "batch", "none"]
) -> torch.Tensor:
    """Reward minus the mean of its group, divided by a standard deviation.

    Args:
        rewards: [N], groups of ``num_generations`` laid one after another; NaN: could not be
            scored.
        num_generations: rollouts of a group, G.
        scale_rewards: divide by the deviation of the ``group``, of the whole ``batch``, or not at
            all.

    Returns:
        [N]; 0 where the reward is NaN or no other reward of its group (or batch) is known.
    """
    groups = rewards.view(-1, num_generations)
    advantages = groups - groups.nanmean(dim=1, keepdim=True)
    if scale_rewards == "group":
        advantages = advantages / (_nan_std(groups) + STD_EPSILON)
    elif scale_rewards == "batch":
        advantages = advantages / (_nan_std(rewards.view(1, -1)) + STD_EPSILON)
    return advantages.reshape(-1).nan_to_num(nan=0.0)


def _nan_std(rows: torch.Tensor) -> torch.Tensor:
    """[R, 1] unbiased deviation of each row's values; NaN where fewer than two are known."""
    count = (~rows.isnan()).sum(dim=1, keepdim=True)
    squares = (rows - rows.nanmean(dim=1, keepdim=True)).square().nansum(dim=1, keepdim=True)
    return (squares / (count - 1)).where(count > 1, torch.nan).sqrt()


def log_ratios(batch: TokenBatch, level: Literal["token", "sequence"]) -> torch.Tensor:
    """[B, T] log of policy over sampler, or [B, 1] its mean over each rollout's counted tokens."""
    per_token = batch.log_probs - batch.sampler_log_probs
    if level == "token":
        return per_token
    num_tokens = batch.mask.sum(dim=1, keepdim=True).clamp(min=1.0)
    return (per_token * batch.mask).sum(dim=1, keepdim=True) / num_tokens


def clipped_losses(
    ratios: torch.Tensor, advantages: torch.Tensor, settings: GRPOSettings
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pessimistic clipped surrogate.

    Args:
        ratios: [B, T] or [B, 1].
        advantages: [B].
        settings: ``epsilon``, ``epsilon_high`` and ``delta`` are read.

    Returns:
        The loss of each ratio, and which ratios are clipped from below and from above; all shaped
        as ``ratios``.
    """
    low = 1 - settings.epsilon
    high = 1 + (settings.epsilon if settings.epsilon_high is None else settings.epsilon_high)
    weight = advantages.unsqueeze(1)
    clamped = ratios.clamp(low, high)
    if settings.delta is not None:
        ratios = ratios.clamp(max=settings.delta)
    losses = -torch.min(ratios * weight, clamped * weight)
    return losses, (ratios < low) & (weight < 0), (ratios > high) & (weight > 0)


def kl_to_reference(log_probs: torch.Tensor, reference_log_probs: torch.Tensor) -> torch.Tensor:
    """[B, T] unbiased, non-negative estimate of KL(policy, reference), named k3."""
    difference = reference_log_probs - log_probs
    return difference.exp() - difference - 1


def token_weights(
    mask: torch.Tensor,
    totals: StepTotals,
    *,
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"],
    max_completion_length: int,
) -> torch.Tensor:
    """[B, T] what each token's loss is multiplied by before all are added up.

    ``grpo``: mean over a rollout's tokens, then over rollouts. ``bnpo`` and ``dapo``: mean over the
    counted tokens of the step. ``dr_grpo``: sum over tokens divided by the longest possible length,
    then mean over rollouts.
    """
    if loss_type == "grpo":
        num_tokens = mask.sum(dim=1, keepdim=True).clamp(min=1.0)
        return mask / (num_tokens * totals.num_rollouts)
    if loss_type == "dr_grpo":
        return mask / (totals.num_rollouts * max_completion_length)
    return mask / max(totals.num_tokens, 1)


class GRPO:
    """GRPO with its settings; see the module for the formulas."""

    def __init__(
        self, settings: GRPOSettings, *, num_generations: int, max_completion_length: int
    ) -> None:
        self._settings = settings
        self._num_generations = num_generations
        self._max_completion_length = max_completion_length
        self.num_iterations = settings.num_iterations
        self.needs_reference = settings.beta > 0

    def advantages(self, rewards: torch.Tensor) -> torch.Tensor:
        return group_advantages(
            rewards,
            num_generations=self._num_generations,
            scale_rewards=self._settings.scale_rewards,
        )

    def mask_row(self, finish_reason: str) -> float:
        is_masked = self._settings.mask_truncated_completions and finish_reason == "length"
        return 0.0 if is_masked else 1.0

    def loss(self, batch: TokenBatch, totals: StepTotals) -> LossTerms:
        settings, mask = self._settings, batch.mask
        ratios = log_ratios(batch, settings.importance_sampling_level).exp()
        losses, is_low, is_high = clipped_losses(ratios, batch.advantages, settings)
        kl_sum = mask.new_zeros(())
        if batch.reference_log_probs is not None:
            kl = kl_to_reference(batch.log_probs, batch.reference_log_probs)
            losses = losses + settings.beta * kl
            kl_sum = (kl.detach() * mask).sum()
        weights = token_weights(
            mask,
            totals,
            loss_type=settings.loss_type,
            max_completion_length=self._max_completion_length,
        )
        counted = mask if settings.importance_sampling_level == "token" else torch.ones_like(ratios)
        return LossTerms(
            loss=(losses * weights).sum(),
            kl_sum=kl_sum,
            low_clipped_sum=(is_low * counted).sum(),
            high_clipped_sum=(is_high * counted).sum(),
            clip_count=counted.sum(),
        )
