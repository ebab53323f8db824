"""What we put in the place of vLLM's own methods gives what they give."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from srt_common.errors import ConfigurationError
from srt_rollout.vllm_plugin import compat

VOCABULARY = 29


def outputs(num_draft_tokens: list[int], choice: random.Random) -> torch.Tensor:
    """[B, L+1] emitted tokens: a part of each draft and one more, then -1."""
    longest = max(num_draft_tokens)
    table = torch.full((len(num_draft_tokens), longest + 1), -1, dtype=torch.int32)
    for row, drafted in enumerate(num_draft_tokens):
        for step in range(choice.randint(0, drafted) + 1):
            table[row, step] = choice.randrange(VOCABULARY)
    return table


@pytest.mark.parametrize("mode", ["processed_logprobs", "processed_logits"])
@pytest.mark.parametrize("num_logprobs", [0, 3])
def test_log_probs_of_emitted_tokens_are_those_of_vllm(mode: str, num_logprobs: int) -> None:
    choice = random.Random(7)
    some = [[choice.randint(0, 5) for _ in range(choice.randint(1, 6))] for _ in range(20)]
    for lengths in [[0], [0, 0, 0], *some]:
        drafts = [[choice.randrange(VOCABULARY) for _ in range(n)] for n in lengths]
        metadata = SpecDecodeMetadata.make_dummy(drafts, torch.device("cpu"))
        logits = torch.randn(sum(lengths) + len(lengths), VOCABULARY)
        ends = torch.tensor(lengths).cumsum(0) + torch.arange(len(lengths))
        is_target = torch.ones(len(logits), dtype=torch.bool)
        is_target[ends] = False
        metadata.bonus_logits_indices = ends
        metadata.target_logits_indices = is_target.nonzero().squeeze(1)
        metadata.cu_num_sampled_tokens = (torch.tensor(lengths) + 1).cumsum(0)
        stock = RejectionSampler(Sampler(mode))
        sampled = outputs(lengths, choice)
        given = (num_logprobs, metadata, logits, logits[is_target], logits[ends], sampled)
        expected = stock._get_logprobs_tensors(*given)
        found = compat.logprobs_tensors(stock, *given)
        is_emitted = (sampled >= 0).flatten()
        for ours, theirs in zip(found[:3], expected[:3], strict=True):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours[is_emitted], theirs[is_emitted])


class Runner:
    """As much of vLLM's runner as is looked at before anything is attached."""

    def __init__(self) -> None:
        self.rejection_sampler = RejectionSampler(Sampler())
        self.speculative_config = SimpleNamespace(rejection_sample_method="strict")
        parallel_config = SimpleNamespace(pipeline_parallel_size=1)
        self.vllm_config = SimpleNamespace(parallel_config=parallel_config)

    def _sample(self, logits: object, spec_decode_metadata: object) -> None:
        """Stands for vLLM's."""

    def _calc_spec_decode_metadata(
        self, num_draft_tokens: object, cu_num_scheduled_tokens: object
    ) -> None:
        """Stands for vLLM's."""


class LaterRunner(Runner):
    """Of a vLLM that nobody has run with us."""

    def _sample(self, logits: object, spec_decode_metadata: object, mask: object = None) -> None:
        """Takes one thing more, which our override would not pass on."""


def refusal(runner: Runner) -> str:
    with pytest.raises(ConfigurationError) as caught:
        compat.attach(runner, SimpleNamespace())
    return str(caught.value)


def test_a_function_that_takes_more_than_ours_passes_on_stops_the_engine() -> None:
    assert "_sample takes (self, logits, spec_decode_metadata, mask)" in refusal(LaterRunner())


def test_a_function_that_is_gone_stops_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Runner, "_calc_spec_decode_metadata")
    assert "_calc_spec_decode_metadata is missing" in refusal(Runner())


def test_an_unknown_version_stops_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.__version__", "0.99.0")
    assert "vllm is 0.99.0; the SRT drafter supports 0.27 to 0.32" in refusal(Runner())


def test_parallel_pipelines_are_refused() -> None:
    runner = Runner()
    runner.vllm_config.parallel_config.pipeline_parallel_size = 2
    assert "pipeline_parallel_size is 2" in refusal(runner)
