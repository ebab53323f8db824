"""Checkpoints: training goes on exactly, and a torn one is never seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from srt_common.messages.rollouts import WeightUpdate
from srt_trainer.algorithms.grpo import GRPO
from srt_trainer.checkpoint import Checkpoints
from srt_trainer.policy import Policy
from srt_trainer.settings import GRPOSettings
from srt_trainer.weights import WeightsFolder
from support.tiny_model import make_tiny_model
from support.trainer_jobs import job_settings, rollout

ROLLOUTS = [rollout([8, 9, 10]), rollout([11, 12]), rollout([13]), rollout([14, 15, 16, 17])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    make_tiny_model(path / "model")
    return path


def load(folder: Path) -> Policy:
    return Policy.load(job_settings(folder), needs_reference=False)


def learn(policy: Policy, rewards: list[float]) -> None:
    grpo = GRPO(GRPOSettings(), num_generations=2, max_completion_length=24)
    policy.update(ROLLOUTS, list(rewards), grpo)


def weights(policy: Policy) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.model.parameters()])


def test_a_restored_policy_goes_on_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    policy = load(folder)
    learn(policy, [1.0, 0.0, 0.0, 1.0])
    checkpoints.save(1, policy)
    random_number = torch.rand(1)
    restored = load(folder)
    assert checkpoints.restore(restored) == 1
    assert torch.equal(torch.rand(1), random_number)
    assert restored.num_updates == 1
    for later in (policy, restored):
        learn(later, [1.0, 1.0, 1.0, 1.0])  # only the moments move the weights here
        learn(later, [0.0, 1.0, 1.0, 0.0])
    assert torch.equal(weights(policy), weights(restored))
    assert not torch.equal(weights(policy), weights(load(folder)))


def test_a_run_without_checkpoints_begins_at_step_0(folder: Path, tmp_path: Path) -> None:
    policy = load(folder)
    before = weights(policy).clone()
    assert Checkpoints(tmp_path, keep=1).restore(policy) == 0
    assert torch.equal(weights(policy), before)


def test_only_the_newest_whole_checkpoints_are_kept_and_used(folder: Path, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    policy = load(folder)
    for step in (2, 4, 6):
        checkpoints.save(step, policy)
    torn = tmp_path / "step-000008.part"
    torn.mkdir()
    (torn / "state.json").write_text("{")
    assert {path.name for path in tmp_path.iterdir()} == {
        "step-000004",
        "step-000006",
        "step-000008.part",
    }
    assert checkpoints.restore(load(folder)) == 6
    checkpoints.save(8, policy)
    assert checkpoints.restore(load(folder)) == 8


def test_published_weights_are_what_the_policy_is(folder: Path, tmp_path: Path) -> None:
    policy = load(folder)
    learn(policy, [1.0, 0.0, 0.0, 1.0])
    published = WeightsFolder(tmp_path, dtype=torch.float32, base_url=None)
    assert published.write(1, policy) == WeightUpdate(path="policy-000001", policy_version=1)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy-000001", dtype=torch.float32)
    expected = policy.model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


def test_two_versions_of_weights_are_kept_and_none_from_the_future(
    folder: Path, tmp_path: Path
) -> None:
    published = WeightsFolder(tmp_path, dtype=torch.bfloat16, base_url=None)
    policy = load(folder)
    (tmp_path / "policy-000009").mkdir()
    (tmp_path / "policy-000001.part").mkdir()
    for version in (0, 1, 2, 2):
        published.write(version, policy)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy-000001", "policy-000002"]
