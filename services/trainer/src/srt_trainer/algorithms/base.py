"""What the policy update asks of an algorithm.

Shapes: B = rollouts of a micro-batch, T = response tokens of its longest rollout, N = rollouts of
the step.

* Everything is additive over micro-batches: the loss of a step is the sum over its micro-batches,
  however they are cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """What is known of the response tokens of a micro-batch."""

    log_probs: torch.Tensor
    """[B, T] of the policy being updated; carries the gradient."""
    sampler_log_probs: torch.Tensor
    """[B, T] as the engine reported them when it sampled."""
    reference_log_probs: torch.Tensor | None
    """[B, T] of the initial policy, when the algorithm needs it."""
    advantages: torch.Tensor
    """[B]."""
    mask: torch.Tensor
    """[B, T] 1.0 where a token counts in the loss, 0.0 elsewhere (padding, truncated rollouts)."""


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Sizes of the whole step, which micro-batches share as their normaliser."""

    num_rollouts: int
    num_tokens: int
    """Tokens whose mask is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """One micro-batch's share of the loss, and sums from which the step's means are made."""

    loss: torch.Tensor
    """Scalar with gradient; shares add up to the loss of the step."""
    kl_sum: torch.Tensor
    """Sum over counted tokens of the divergence to the reference; 0 without one."""
    low_clipped_sum: torch.Tensor
    high_clipped_sum: torch.Tensor
    clip_count: torch.Tensor
    """Ratios (tokens, or rollouts at sequence level) that the clipped sums are out of."""


class Algorithm(Protocol):
    """A policy-gradient method."""

    num_iterations: int
    """Optimizer updates on the rollouts of one step."""
    needs_reference: bool
    """Whether `TokenBatch.reference_log_probs` must be given."""

    def advantages(self, rewards: torch.Tensor) -> torch.Tensor:
        """[N] advantages of [N] rewards, group after group; a NaN reward gets advantage 0."""
        ...

    def mask_row(self, finish_reason: str) -> float:
        """1.0 when a rollout that ended so counts in the loss, else 0.0."""
        ...

    def loss(self, batch: TokenBatch, totals: StepTotals) -> LossTerms:
        """The micro-batch's share of the loss."""
        ...
