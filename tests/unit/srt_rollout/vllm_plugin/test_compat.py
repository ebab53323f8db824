"""What we put in the place of vLLM's own methods gives what they give."""

from __future__ import annotations

import random

import pytest
import torch
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

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
    for _ in range(20):
        lengths = [choice.randint(0, 5) for _ in range(choice.randint(1, 6))]
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
