"""Promise 1, lossless, on real vLLM: drafting does not change what is sampled.

Every case of ``srt verify`` against the enumerated distribution, four negative controls that must
be caught, greedy decoding token for token against transformers. One engine in this process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import vllm
from safetensors.torch import load_file, save_file
from torch import Tensor

from srt_common.governor import UNDRAFTED, Governor, Plan
from srt_common.step_time import StepCost, StepSample, StepTime
from srt_rollout.drafter import DraftBook, Drafter, FloatArray, IntArray, Proposal, StepBatch
from srt_rollout.verify.cases import Case, all_cases
from srt_rollout.verify.engine import (
    ExactPolicy,
    Request,
    Sampling,
    VerifyEngine,
)
from srt_rollout.verify.environment import ENVIRONMENT
from srt_rollout.verify.exact import ChiSquare, holm
from srt_rollout.verify.runner import MIN_P_VALUE, run_case
from srt_rollout.vllm_plugin import sampler
from srt_rollout.vllm_plugin.proposer import TreeDrafter
from srt_rollout.vllm_plugin.settings import DrafterSettings
from support.tiny_model import make_tiny_model

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]

MAX_NUM_SEQS = 128
NUM_SEQUENCES = 20_000
NUM_SEQUENCES_CONTROL = 8_000
LOGIT_SCALE = 2.5
IS_ALWAYS_VERIFYING = tuple(map(int, vllm.__version__.split(".")[:2])) >= (0, 32)
"""Whether this vLLM goes through verification in a step without drafts too."""
CASES = all_cases()
SAMPLED = CASES[0]
POINT_MASS = next(case for case in CASES if case.name.startswith("point mass"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with sharper distributions, so that more drafts are accepted."""
    path = make_tiny_model(tmp_path_factory.mktemp("model"))
    weights = load_file(path / "model.safetensors")
    weights["lm_head.weight"] *= LOGIT_SCALE
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[VerifyEngine]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield VerifyEngine(model, max_num_seqs=MAX_NUM_SEQS)


@pytest.fixture(scope="module")
def policy(model: Path) -> ExactPolicy:
    return ExactPolicy(model)


@pytest.fixture(scope="module")
def results() -> dict[str, ChiSquare]:
    return {}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_drafting_leaves_the_distribution_alone(
    engine: VerifyEngine, policy: ExactPolicy, results: dict[str, ChiSquare], case: Case
) -> None:
    result = run_case(engine, policy, case, num_sequences=NUM_SEQUENCES)
    results[case.name] = result.test
    assert result.test.p_value > MIN_P_VALUE / len(CASES)
    is_governed = case.settings.min_survival is None  # drafts as much as pays on this machine
    assert result.num_draft_tokens > (0 if is_governed else NUM_SEQUENCES / 4)
    assert 0 < result.num_accepted_tokens < result.num_draft_tokens


def test_all_cases_pass_together(results: dict[str, ChiSquare]) -> None:
    assert len(results) == len(CASES)
    assert min(holm([result.p_value for result in results.values()])) > MIN_P_VALUE


def test_a_point_mass_verified_with_q_is_caught(
    engine: VerifyEngine, policy: ExactPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = Drafter.step

    def step(self: Drafter, batch: StepBatch, plan: Plan) -> Proposal:
        drafts = stock(self, batch, plan)
        return replace(drafts, token_ids=likeliest(drafts))

    monkeypatch.setattr(Drafter, "step", step)
    result = run_case(engine, policy, SAMPLED, num_sequences=NUM_SEQUENCES_CONTROL)
    assert result.test.p_value < 1e-9


def likeliest(drafts: Proposal) -> IntArray:
    """[N] the token to which q gives most at each position."""
    best: IntArray = drafts.q_token_ids[np.arange(len(drafts.token_ids)), drafts.q_probs.argmax(1)]
    return best


def test_a_position_dropped_for_its_own_token_is_caught(
    engine: VerifyEngine, policy: ExactPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The governor may cut a draft by anything but this."""
    stock = Drafter.step

    def step(self: Drafter, batch: StepBatch, plan: Plan) -> Proposal:
        drafts = stock(self, batch, plan)
        is_dropped = drafts.token_ids == likeliest(drafts)
        rows = np.split(is_dropped, drafts.offsets[1:-1])
        lengths = [int(np.argmax([*row.tolist(), True])) for row in rows]
        return drafts.cut(np.asarray(lengths, np.int32))

    monkeypatch.setattr(Drafter, "step", step)
    result = run_case(engine, policy, SAMPLED, num_sequences=NUM_SEQUENCES_CONTROL)
    assert result.test.p_value < 1e-9


def test_a_stale_q_is_caught(
    engine: VerifyEngine, policy: ExactPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = DraftBook.distributions

    def distributions(
        self: DraftBook, starts: Sequence[int], lengths: Sequence[int]
    ) -> tuple[IntArray, FloatArray]:
        token_ids, probs = stock(self, starts, lengths)
        return np.roll(token_ids, 1, axis=1), probs

    monkeypatch.setattr(DraftBook, "distributions", distributions)
    result = run_case(engine, policy, SAMPLED, num_sequences=NUM_SEQUENCES_CONTROL)
    assert result.test.p_value < 1e-9


def test_recovery_from_p_instead_of_the_residual_is_caught(
    engine: VerifyEngine, policy: ExactPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_policy(probs: Tensor, _draft: object, at: Tensor, *_rest: object) -> Tensor:
        return torch.multinomial(probs[at], 1).squeeze(1)

    monkeypatch.setattr(sampler, "_draw_residual", from_policy)
    result = run_case(engine, policy, POINT_MASS, num_sequences=NUM_SEQUENCES_CONTROL)
    assert result.test.p_value < 1e-9


def test_greedy_decoding_is_token_identical(engine: VerifyEngine, policy: ExactPolicy) -> None:
    engine.configure(DrafterSettings(min_survival=0.0))
    rng = np.random.default_rng(5)
    prompts = [tuple(rng.integers(2, engine.vocab_size, 9).tolist()) for _ in range(8)]
    requests = [Request(prompt, 40, Sampling(temperature=0.0)) for prompt in prompts]
    cold, warm = engine.sample(requests), engine.sample(requests)
    rows = engine.drafter.forest.stats().rows
    assert rows.num_accepted_tokens > 100
    assert cold == warm
    for prompt, found in zip(prompts, warm, strict=True):
        continuation: tuple[int, ...] = ()
        for _ in range(40):
            continuation += (int(policy.logits(prompt, [continuation])[0].argmax()),)
        assert found == continuation


def test_run_ahead_and_its_resumption_keep_every_token_in_the_trees(engine: VerifyEngine) -> None:
    engine.configure(DrafterSettings())
    prompt = SAMPLED.prompt(engine.vocab_size)
    early = [Request(prompt, 30, Sampling(), priority=10, lane="run_ahead")] * 128
    sequences = engine.sample(early, late=[Request(prompt, 30, Sampling())] * 64)
    engine.sample([Request((2, 3), 1, Sampling())])  # lets the last finish events arrive
    assert sum(len(sequence) for sequence in sequences) == 192 * 30
    assert num_held(engine, prompt) == 192 * 30
    assert engine.drafter.forest.stats().num_run_ahead_tokens == 128 * 30


def test_an_engine_that_does_not_draft_keeps_every_token_in_the_trees(
    engine: VerifyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Governor, "plan", lambda _self, _num_rows: UNDRAFTED)
    engine.configure(DrafterSettings())
    prompt = SAMPLED.prompt(engine.vocab_size)
    lengths = (1, 5, 31, 32, 33, 70)
    sequences = engine.sample([Request(prompt, length, Sampling()) for length in lengths])
    engine.sample([Request((2, 3), 1, Sampling())])
    assert [len(sequence) for sequence in sequences] == list(lengths)
    assert num_held(engine, prompt) == sum(lengths)
    assert engine.drafter.forest.stats().rows.num_steps >= sum(lengths)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, top_k=8, top_p=0.9)])
def test_a_plain_step_draws_the_numbers_that_a_verified_one_without_drafts_draws(
    engine: VerifyEngine, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    """Else tensor-parallel ranks, of which only the first drafts, would go different ways. More
    requests than places: the last prompts are computed beside rows that decode.
    """
    monkeypatch.setattr(Governor, "plan", lambda _self, _num_rows: UNDRAFTED)
    prompt = SAMPLED.prompt(engine.vocab_size)
    requests = [Request(prompt, 20 + i % 21, sampling) for i in range(MAX_NUM_SEQS + 16)]
    found = []
    num_verified = []
    for is_plain in (TreeDrafter.is_plain, lambda _self, _num_draft_tokens: False):
        engine.configure(DrafterSettings())
        with monkeypatch.context() as patch:
            verified = counted(patch, TreeDrafter, "draft_distributions")
            patch.setattr(TreeDrafter, "is_plain", is_plain)
            torch.manual_seed(3)
            found.append(engine.sample(requests))
        num_verified.append(verified[0])
    assert found[0] == found[1]
    few, many = num_verified
    assert few < 16
    assert (many > 16) == IS_ALWAYS_VERIFYING


def test_drafts_that_the_governor_cuts_leave_the_distribution_alone(
    engine: VerifyEngine, policy: ExactPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine on which a draft token costs forty times as much in every other step: what was made
    in the hope of a cheap one is cut.
    """
    costs = [StepCost(base=1.0, per_token=per_token) for per_token in (0.0005, 0.02)]

    def observe(_self: StepTime, step: StepSample) -> float:
        costs.reverse()
        return costs[0].seconds(
            step.num_rows, step.num_draft_tokens, num_prompt_tokens=0, drafting=step.drafting
        )

    monkeypatch.setattr(StepTime, "observe", observe)
    monkeypatch.setattr(StepTime, "cost", property(lambda _self: costs[0]))
    governed = Case("cut", DrafterSettings())
    result = run_case(engine, policy, governed, num_sequences=NUM_SEQUENCES)
    governor = engine.drafter.stats()["governor"]
    assert governor["num_cut_tokens"] > NUM_SEQUENCES / 100
    assert result.num_accepted_tokens > NUM_SEQUENCES / 10
    assert result.test.p_value > MIN_P_VALUE


def counted(patch: pytest.MonkeyPatch, owner: type, name: str) -> list[int]:
    """How often a method is called while the patch lasts."""
    stock, calls = getattr(owner, name), [0]

    def method(*given: object) -> object:
        calls[0] += 1
        return stock(*given)

    patch.setattr(owner, name, method)
    return calls


def num_held(engine: VerifyEngine, prompt: tuple[int, ...]) -> int:
    """Tokens in the tree of a prompt."""
    stats = engine.drafter.forest.prompt_stats(engine.drafter.prompt_key(prompt))
    return 0 if stats is None else stats.num_tokens
