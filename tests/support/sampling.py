"""vLLM's sampling metadata for tests of single steps."""

from __future__ import annotations

import torch
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata


def metadata(num_requests: int, temperature: float = 1.0) -> SamplingMetadata:
    is_greedy = temperature == 0
    return SamplingMetadata(
        temperature=torch.full((num_requests,), temperature),
        all_greedy=is_greedy,
        all_random=not is_greedy,
        top_p=None,
        top_k=None,
        generators={},
        max_num_logprobs=None,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=torch.empty(0),
        presence_penalties=torch.empty(0),
        repetition_penalties=torch.empty(0),
        output_token_ids=[],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
    )
