"""The policy update: right log-probabilities, one gradient however it is cut, reproducible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from srt_trainer.algorithms.grpo import GRPO
from srt_trainer.policy import (
    Policy,
    UpdateAbandoned,
    UpdateStatistics,
    cast_state,
    num_threads,
    pad_rows,
)
from srt_trainer.rollouts import Rollout
from srt_trainer.settings import GRPOSettings, OptimizerSettings
from support.tiny_model import make_tiny_model
from support.trainer_jobs import job_settings, rollout

REWARDS = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
"""Three groups of two; the last one teaches nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    make_tiny_model(path / "model")
    return path


def load(folder: Path, *, needs_reference: bool = False, **optimizer: Any) -> Policy:
    settings = {"learning_rate": 1e-2, "max_tokens_per_micro_batch": 200, **optimizer}
    return Policy.load(job_settings(folder, optimizer=settings), needs_reference=needs_reference)


def grpo(**settings: Any) -> GRPO:
    return GRPO(GRPOSettings(**settings), num_generations=2, max_completion_length=24)


def sampler_log_probs(folder: Path, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
    """What an engine with the initial weights reports for a response."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(1)
    steps = enumerate(response, start=len(prompt) - 1)
    return [logits[position, token].item() for position, token in steps]


@pytest.fixture(scope="module")
def rollouts(folder: Path) -> list[Rollout]:
    """Six rollouts of unequal prompts and lengths, as sampled from the initial weights."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for number, length in enumerate((3, 9, 1, 24, 7, 2)):
        prompt = torch.randint(2, 64, (3 + number // 2,), generator=generator).tolist()
        response = torch.randint(2, 64, (length,), generator=generator).tolist()
        result.append(
            rollout(
                response,
                prompt=prompt,
                log_probs=sampler_log_probs(folder, prompt, response),
                finish_reason="length" if length == 24 else "stop",
            )
        )
    return result


def weights(policy: Policy) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.model.parameters()])


def update(policy: Policy, rollouts: Sequence[Rollout], **settings: Any) -> UpdateStatistics:
    return policy.update(rollouts, REWARDS, grpo(**settings))


def test_the_trainer_agrees_with_the_sampler_on_the_tokens_it_sampled(
    folder: Path, rollouts: list[Rollout]
) -> None:
    statistics = update(load(folder), rollouts)
    assert statistics.sampler_log_prob_difference_max < 1e-4
    assert statistics.clip_low_fraction == statistics.clip_high_fraction == 0.0
    assert statistics.kl is None
    assert 1.0 < statistics.entropy < torch.tensor(64.0).log()


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_micro_batches_change_nothing_but_the_order_of_sums(
    folder: Path, rollouts: list[Rollout], loss_type: str
) -> None:
    results = []
    for max_tokens in (200, 1000):
        policy = load(folder, max_tokens_per_micro_batch=max_tokens)
        statistics = update(policy, rollouts, loss_type=loss_type)
        results.append((weights(policy), statistics.grad_norm, statistics.loss))
    (first, first_norm, first_loss), (second, second_norm, second_loss) = results
    assert first_norm == pytest.approx(second_norm, rel=1e-4)
    assert first_loss == pytest.approx(second_loss, abs=1e-6)
    # Adam's first step is the sign of the gradient, so only gradients near 0 may differ.
    assert ((first - second).abs() > 1e-3).float().mean() < 1e-3


def test_the_gradient_is_that_of_the_formula_on_plain_logits(
    folder: Path, rollouts: list[Rollout]
) -> None:
    policy = load(folder, max_grad_norm=1e9)
    algorithm = grpo(loss_type="grpo", scale_rewards="none")
    norm = policy.update(rollouts, REWARDS, algorithm).grad_norm
    fresh = load(folder).model
    advantages = [0.5, -0.5, -0.5, 0.5, 0.0, 0.0]
    loss = torch.zeros(())
    for record, advantage in zip(rollouts, advantages, strict=True):
        prompt, response = record.prompt_array().tolist(), record.token_array().tolist()
        logits = fresh(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(1)
        picked = logits[len(prompt) - 1 : -1][range(len(response)), response]
        ratios = (picked - torch.from_numpy(record.log_prob_array().copy())).exp()
        loss = loss - advantage * ratios.mean() / len(rollouts)
    loss.backward()  # type: ignore[no-untyped-call]
    squares = [parameter.grad.square().sum() for parameter in fresh.parameters()]
    assert norm == pytest.approx(torch.stack(squares).sum().sqrt().item(), rel=1e-4)


def test_the_same_records_give_the_same_weights_bit_for_bit(
    folder: Path, rollouts: list[Rollout]
) -> None:
    policies = [load(folder, max_tokens_per_micro_batch=200) for _ in range(2)]
    for policy in policies:
        for _ in range(3):
            update(policy, rollouts)
    assert torch.equal(weights(policies[0]), weights(policies[1]))


def test_a_rewarded_response_becomes_more_likely_and_its_rival_less(
    folder: Path, rollouts: list[Rollout]
) -> None:
    policy = load(folder, learning_rate=1e-3)
    pair = rollouts[:2]
    for _ in range(3):
        policy.update(pair, [1.0, 0.0], grpo())
    rows = pad_rows(pair, "cpu")
    with torch.no_grad():
        log_probs, _ = policy._log_probs(policy.model, rows)
    change = ((log_probs - rows.sampler_log_probs) * rows.is_response).sum(dim=1)
    assert change[0] > 0 > change[1]


def test_rollouts_without_advantage_are_measured_but_do_not_teach(
    folder: Path, rollouts: list[Rollout]
) -> None:
    policy = load(folder)
    before = weights(policy).clone()
    statistics = policy.update(rollouts, [1.0] * 6, grpo())
    assert torch.equal(weights(policy), before)
    assert statistics.grad_norm == 0.0
    assert statistics.entropy > 0
    assert policy.num_updates == 1


def test_the_reference_stays_where_the_policy_began(folder: Path, rollouts: list[Rollout]) -> None:
    policy = load(folder, needs_reference=True)
    kls = [update(policy, rollouts, beta=0.1).kl for _ in range(3)]
    assert kls[0] == pytest.approx(0.0, abs=1e-6)
    assert kls[1] is not None
    assert kls[1] > 1e-4


def test_several_iterations_update_several_times_and_leave_the_clip_range(
    folder: Path, rollouts: list[Rollout]
) -> None:
    policy = load(folder)
    statistics = update(policy, rollouts, num_iterations=3)
    assert policy.num_updates == 3
    assert statistics.sampler_log_prob_difference_max < 1e-4
    assert statistics.clip_low_fraction + statistics.clip_high_fraction > 0


def test_truncated_rollouts_can_be_left_out(folder: Path, rollouts: list[Rollout]) -> None:
    norms = []
    for settings in ({}, {"mask_truncated_completions": True}):
        policy = load(folder)
        norms.append(policy.update(rollouts[2:4], [0.0, 1.0], grpo(**settings)).grad_norm)
    alone = load(folder)
    grad_norm = alone.update(rollouts[2:4], [0.0, 1.0], grpo(mask_truncated_completions=True))
    assert norms[1] == grad_norm.grad_norm
    assert norms[0] != norms[1]


def test_the_learning_rate_warms_up_linearly(folder: Path, rollouts: list[Rollout]) -> None:
    policy = load(folder, learning_rate=0.1, warmup_steps=4)
    rates = [update(policy, rollouts).learning_rate for _ in range(5)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(
    folder: Path, rollouts: list[Rollout], tmp_path: Path
) -> None:
    policy = load(folder, dtype="bfloat16")
    statistics = update(policy, rollouts)
    assert 1e-4 < statistics.sampler_log_prob_difference_max < 0.5
    assert weights(policy).dtype == torch.float32
    policy.save_weights(tmp_path, dtype=torch.bfloat16)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert {parameter.dtype for parameter in saved.parameters()} <= {torch.bfloat16, torch.float32}


def test_a_gradient_that_is_not_finite_stops_the_job(folder: Path, rollouts: list[Rollout]) -> None:
    policy = load(folder)
    next(policy.model.parameters()).data[0] = float("nan")
    broken = [rollout([0, 1]), rollout([0, 1])]
    with pytest.raises(FloatingPointError, match="update 0 is nan; it must be finite"):
        policy.update([*broken, *rollouts[:4]], REWARDS, grpo())


def test_an_update_that_is_asked_to_stop_does_not_touch_the_weights(
    folder: Path, rollouts: list[Rollout]
) -> None:
    policy = load(folder)
    before = weights(policy).clone()
    answers = iter([False, True])
    with pytest.raises(UpdateAbandoned):
        policy.update(rollouts, REWARDS, grpo(), should_stop=lambda: next(answers))
    assert torch.equal(weights(policy), before)


def test_weight_decay_spares_vectors(folder: Path, rollouts: list[Rollout]) -> None:
    policy = load(folder, weight_decay=0.5)
    matrices, vectors = policy.optimizer.param_groups
    assert matrices["weight_decay"] == 0.5
    assert vectors["weight_decay"] == 0.0
    assert all(parameter.ndim == 1 for parameter in vectors["params"])
    model = torch.nn.Linear(2, 2, bias=False)
    only = Policy(
        model, reference=None, settings=OptimizerSettings(learning_rate=1e-3), temperature=1.0
    )
    assert len(only.optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("hosts", "wanted", "expected"),
    [
        (["127.0.0.1", "localhost"], None, 6),
        (["127.0.0.1"] * 9, None, 1),
        (["engine-0.pool", "10.0.0.7"], None, 8),
        (["127.0.0.1"], 3, 3),
    ],
)
def test_engines_on_the_same_machine_keep_a_core_each(
    tmp_path: Path, hosts: list[str], wanted: int | None, expected: int
) -> None:
    engines = [{"name": f"e{n}", "url": f"http://{host}:1"} for n, host in enumerate(hosts)]
    settings = job_settings(tmp_path, engines=engines, num_threads=wanted)
    assert num_threads(settings, num_cores=8) == expected


def test_a_cast_keeps_shared_tensors_shared() -> None:
    tensor = torch.ones(3)
    state = cast_state({"a": tensor, "b": tensor, "n": torch.tensor([1])}, torch.bfloat16)
    assert state["a"].data_ptr() == state["b"].data_ptr()
    assert state["a"].dtype == torch.bfloat16
    assert state["n"].dtype == torch.int64
