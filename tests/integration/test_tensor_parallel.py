"""Promise 1, lossless, where two tensor-parallel ranks share one drafter: each rank verifies by
itself, so all must hold the first one's q.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srt_rollout.verify.engine import NUM_DRAFT_TOKENS, ExactPolicy
from srt_rollout.verify.environment import ENVIRONMENT
from srt_rollout.verify.exact import chi_square, enumerate_cells, processed
from srt_rollout.verify.runner import LENGTH, MIN_P_VALUE
from support.tiny_model import make_tiny_model

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]

NUM_SEQUENCES = 8_000
ROUND = 128


def engine(model: Path) -> Any:
    from vllm import LLM

    return LLM(
        model=str(model),
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype="float32",
        max_num_seqs=ROUND,
        max_model_len=64,
        kv_cache_memory_bytes=64 * 2**20,
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
        tensor_parallel_size=2,
        distributed_executor_backend="mp",
        speculative_config={
            "method": "custom_class",
            "model": "srt_rollout.vllm_plugin.proposer.TreeDrafter",
            "num_speculative_tokens": NUM_DRAFT_TOKENS,
        },
        worker_cls="srt_rollout.vllm_plugin.worker.SRTWorker",
    )


@pytest.mark.parametrize(
    "settings", [{"SRT_DRAFTER_MIN_SURVIVAL": "0.02"}, {}], ids=["always drafted", "governed"]
)
def test_two_ranks_sample_what_the_policy_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    """Governed: with undrafted steps, which the lead alone knows to be plain."""
    for name, value in {**ENVIRONMENT, **settings}.items():
        monkeypatch.setenv(name, value)
    model = make_tiny_model(tmp_path)
    llm = engine(model)
    from vllm import SamplingParams, TokensPrompt

    prompt = [3, 4, 5]
    prompts = [TokensPrompt(prompt_token_ids=prompt)] * ROUND
    params = SamplingParams(
        temperature=1.0, max_tokens=LENGTH, ignore_eos=True, detokenize=False, logprobs=0
    )
    sequences = [
        output.outputs[0].token_ids
        for _ in range(NUM_SEQUENCES // ROUND)
        for output in llm.generate(prompts, params, use_tqdm=False)
    ]
    policy = ExactPolicy(model)
    cells = enumerate_cells(
        lambda paths: processed(policy.logits(prompt, paths), temperature=1.0, top_k=0, top_p=1.0),
        length=LENGTH,
        num_sequences=len(sequences),
    )
    ranks = llm.collective_rpc("srt_stats")
    llm.llm_engine.engine_core.shutdown()
    rows = ranks[0]["trees"]["rows"]
    assert chi_square(cells, sequences).p_value > MIN_P_VALUE
    assert 0 < rows["num_accepted_tokens"] < rows["num_draft_tokens"]
    assert all(rank["trees"]["num_tokens"] == 0 for rank in ranks[1:])
