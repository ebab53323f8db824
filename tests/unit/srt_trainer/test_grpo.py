"""The GRPO formulas: equal to TRL's own code on random tensors, and additive over micro-batches."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import import_utils

from srt_trainer.algorithms.base import LossTerms, StepTotals, TokenBatch
from srt_trainer.algorithms.grpo import GRPO, group_advantages
from srt_trainer.settings import GRPOSettings

with pytest.MonkeyPatch.context() as patch:  # the formulas need no vLLM, which is slow to import
    patch.setattr(import_utils, "is_vllm_available", lambda *_, **__: False)
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.utils import nanstd

MAX_COMPLETION_LENGTH = 9
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")


def random_batch(seed: int, *, with_reference: bool, spread: float = 0.5) -> TokenBatch:
    """Six rollouts of 1 to 7 tokens, one masked whole; the ratios leave the clip range."""
    generator = torch.Generator().manual_seed(seed)

    def noise() -> torch.Tensor:
        return spread * torch.randn(6, 7, generator=generator, dtype=torch.float64)

    lengths = torch.tensor([7, 1, 3, 5, 0, 6])
    log_probs = -noise().abs() - 0.1
    return TokenBatch(
        log_probs=log_probs.clone().requires_grad_(),
        sampler_log_probs=log_probs + noise(),
        reference_log_probs=log_probs + noise() if with_reference else None,
        advantages=torch.randn(6, generator=generator, dtype=torch.float64),
        mask=(torch.arange(7) < lengths.unsqueeze(1)).double(),
    )


class OneProcess:
    """Accelerate's ``Accelerator`` of a job with one process."""

    num_processes = 1

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:  # noqa: ARG002
        return tensor


def trl_loss(batch: TokenBatch, settings: GRPOSettings) -> tuple[torch.Tensor, dict[str, Any]]:
    """TRL's own ``GRPOTrainer._compute_loss`` on the batch, and the metrics it recorded."""
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
    log_probs = batch.log_probs
    entropies = torch.zeros_like(batch.mask)
    attributes = {
        "_get_per_token_logps_and_entropies": lambda *_, **__: (log_probs, entropies, None),
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": defaultdict(list)},
        "accelerator": OneProcess(),
        "args": SimpleNamespace(
            delta=settings.delta, use_bias_correction_kl=False, steps_per_generation=1
        ),
        "aux_loss_enabled": False,
        "beta": settings.beta,
        "current_gradient_accumulation_steps": 1,
        "epsilon_high": high,
        "epsilon_low": settings.epsilon,
        "importance_sampling_level": settings.importance_sampling_level,
        "loss_type": settings.loss_type,
        "max_completion_length": MAX_COMPLETION_LENGTH,
        "model": SimpleNamespace(training=True),
        "off_policy_mask_threshold": None,
        "top_entropy_quantile": 1.0,
        "use_vllm": False,
    }
    for name, value in attributes.items():
        setattr(trainer, name, value)
    ids = torch.zeros(batch.mask.shape, dtype=torch.long)
    loss = trainer._compute_loss(  # type: ignore[no-untyped-call]
        None,
        {
            "prompt_ids": ids[:, :2],
            "prompt_mask": ids[:, :2] + 1,
            "completion_ids": ids,
            "completion_mask": batch.mask,
            "advantages": batch.advantages,
            "old_per_token_logps": batch.sampler_log_probs,
            "ref_per_token_logps": batch.reference_log_probs,
            "num_items_in_batch": batch.mask.sum(),
        },
    )
    return loss, trainer._metrics["train"]


def our_loss(batch: TokenBatch, settings: GRPOSettings, totals: StepTotals) -> LossTerms:
    grpo = GRPO(settings, num_generations=3, max_completion_length=MAX_COMPLETION_LENGTH)
    return grpo.loss(batch, totals)


def totals_of(batch: TokenBatch) -> StepTotals:
    return StepTotals(num_rollouts=len(batch.mask), num_tokens=int(batch.mask.sum()))


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize(
    "clipping",
    [
        {},
        {"epsilon_high": 0.28},
        {"epsilon_high": 0.28, "delta": 1.4},
        {"beta": 0.04, "epsilon": 0.1},
    ],
)
def test_loss_gradient_and_metrics_equal_those_of_trl(
    clipping: dict[str, float], loss_type: Any, level: Any
) -> None:
    settings = GRPOSettings(loss_type=loss_type, importance_sampling_level=level, **clipping)
    for seed in range(5):
        batch = random_batch(seed, with_reference=settings.beta > 0)
        expected, metrics = trl_loss(batch, settings)
        (expected_gradient,) = torch.autograd.grad(expected, batch.log_probs)
        terms = our_loss(batch, settings, totals_of(batch))
        (gradient,) = torch.autograd.grad(terms.loss, batch.log_probs)
        torch.testing.assert_close(terms.loss, expected)
        torch.testing.assert_close(gradient, expected_gradient)
        low = terms.low_clipped_sum / terms.clip_count
        high = terms.high_clipped_sum / terms.clip_count
        assert low.item() == pytest.approx(metrics["clip_ratio/low_mean"][0])
        assert high.item() == pytest.approx(metrics["clip_ratio/high_mean"][0])
        if settings.beta:
            kl = terms.kl_sum / batch.mask.sum()
            assert kl.item() == pytest.approx(metrics["kl"][0])
        else:
            assert terms.kl_sum == 0


def trl_advantages(rewards: torch.Tensor, num_generations: int, scale: str) -> torch.Tensor:
    """TRL's lines for one reward (``_generate_and_score_completions``), with its ``nanstd``."""
    mean = torch.nanmean(rewards.view(-1, num_generations), dim=1)
    mean = mean.repeat_interleave(num_generations, dim=0)
    if scale == "batch":
        std = nanstd(rewards).expand_as(rewards)
    else:
        std = nanstd(rewards.view(-1, num_generations), dim=1)
        std = std.repeat_interleave(num_generations, dim=0)
    advantages = rewards - mean
    if scale != "none":
        advantages = advantages / (std + 1e-4)
    return torch.nan_to_num(advantages, nan=0.0)


@given(
    rewards=st.lists(
        st.one_of(st.floats(-3, 3, width=32), st.just(float("nan"))), min_size=12, max_size=12
    ),
    scale=st.sampled_from(["group", "batch", "none"]),
    num_generations=st.sampled_from([2, 3, 4, 6, 12]),
)
def test_advantages_equal_those_of_trl(
    rewards: list[float], scale: Literal["group", "batch", "none"], num_generations: int
) -> None:
    tensor = torch.tensor(rewards, dtype=torch.float64)
    ours = group_advantages(tensor, num_generations=num_generations, scale_rewards=scale)
    torch.testing.assert_close(ours, trl_advantages(tensor, num_generations, scale))


def test_equal_rewards_and_unknown_rewards_teach_nothing() -> None:
    nan = float("nan")
    rewards = torch.tensor([1.0, 1.0, 1.0, nan, nan, nan, nan, nan, 0.5])
    ours = group_advantages(rewards, num_generations=3, scale_rewards="group")
    assert ours.tolist() == [0.0] * 9


@given(
    cut=st.integers(1, 5),
    seed=st.integers(0, 1000),
    loss_type=st.sampled_from(LOSS_TYPES),
    level=st.sampled_from(["token", "sequence"]),
)
def test_the_loss_of_a_step_is_the_sum_over_any_micro_batches(
    cut: int, seed: int, loss_type: Any, level: Any
) -> None:
    settings = GRPOSettings(loss_type=loss_type, importance_sampling_level=level, beta=0.1)
    batch = random_batch(seed, with_reference=True)
    whole = our_loss(batch, settings, totals_of(batch))
    parts = [
        our_loss(rows_of(batch, part), settings, totals_of(batch))
        for part in (slice(0, cut), slice(cut, None))
    ]
    for name in ("loss", "kl_sum", "low_clipped_sum", "high_clipped_sum", "clip_count"):
        total = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(total, getattr(whole, name))


def rows_of(batch: TokenBatch, rows: slice) -> TokenBatch:
    assert batch.reference_log_probs is not None
    return TokenBatch(
        log_probs=batch.log_probs[rows],
        sampler_log_probs=batch.sampler_log_probs[rows],
        reference_log_probs=batch.reference_log_probs[rows],
        advantages=batch.advantages[rows],
        mask=batch.mask[rows],
    )


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_masked_tokens_have_no_gradient(loss_type: Any) -> None:
    batch = random_batch(3, with_reference=True)
    terms = our_loss(batch, GRPOSettings(loss_type=loss_type, beta=0.1), totals_of(batch))
    (gradient,) = torch.autograd.grad(terms.loss, batch.log_probs)
    assert torch.equal(gradient * (1 - batch.mask), torch.zeros_like(gradient))


def test_only_truncated_rollouts_are_masked_and_only_when_asked() -> None:
    def grpo(is_on: bool) -> GRPO:
        settings = GRPOSettings(mask_truncated_completions=is_on)
        return GRPO(settings, num_generations=2, max_completion_length=4)

    assert grpo(True).mask_row("length") == 0.0
    assert grpo(True).mask_row("stop") == 1.0
    assert grpo(False).mask_row("length") == 1.0


def test_a_reference_is_needed_exactly_when_beta_is_above_zero() -> None:
    settings = [GRPOSettings(beta=beta) for beta in (0.0, 0.1)]
    needs = [GRPO(s, num_generations=2, max_completion_length=4).needs_reference for s in settings]
    assert needs == [False, True]


def test_the_class_uses_its_group_size_and_scale() -> None:
    grpo = GRPO(GRPOSettings(scale_rewards="none"), num_generations=2, max_completion_length=4)
    assert grpo.advantages(torch.tensor([1.0, 0.0, 3.0, 1.0])).tolist() == [0.5, -0.5, 1.0, -1.0]
