"""An engine in this process, and the policy's exact distribution beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from srt_rollout.verify.exact import Path as TokenPath
from srt_rollout.vllm_plugin.proposer import TreeDrafter
from srt_rollout.vllm_plugin.settings import DrafterSettings

NUM_DRAFT_TOKENS = 6
BLOCK_SIZE = 32
MAX_MODEL_LEN = 256


@dataclass(frozen=True, slots=True)
class Sampling:
    """How sequences are drawn."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to draw."""

    prompt: tuple[int, ...]
    length: int
    sampling: Sampling
    priority: int = 0
    lane: str = "policy"


class VerifyEngine:
    """vLLM with the SRT drafter, stepped by hand so that arrivals and preemption can be
    arranged.
    """

    def __init__(
        self, model: Path, *, max_num_seqs: int = 256, num_blocks: int | None = None
    ) -> None:
        from vllm import LLM

        self._llm = LLM(
            model=str(model),
            skip_tokenizer_init=True,
            enforce_eager=True,
            dtype="float32",
            max_num_seqs=max_num_seqs,
            max_model_len=MAX_MODEL_LEN,
            block_size=BLOCK_SIZE,
            num_gpu_blocks_override=num_blocks,
            kv_cache_memory_bytes=256 * 2**20,
            scheduling_policy="priority",
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            speculative_config={
                "method": "custom_class",
                "model": "srt_rollout.vllm_plugin.proposer.TreeDrafter",
                "num_speculative_tokens": NUM_DRAFT_TOKENS,
            },
            worker_cls="srt_rollout.vllm_plugin.worker.SRTWorker",
            scheduler_cls="srt_rollout.vllm_plugin.scheduler.PreemptingScheduler",
        )
        self._next_id = 0

    @property
    def core(self) -> Any:
        """VLLM's engine core in this process."""
        return self._llm.llm_engine.engine_core.engine_core

    @property
    def drafter(self) -> TreeDrafter:
        """The drafter inside the worker."""
        drafter = self.core.model_executor.driver_worker.worker.model_runner.drafter
        assert isinstance(drafter, TreeDrafter)
        return drafter

    @property
    def vocab_size(self) -> int:
        """V of the served model."""
        return int(self._llm.llm_engine.model_config.get_vocab_size())

    def configure(self, settings: DrafterSettings) -> None:
        """Empty trees, new settings, empty prefix cache. No request may be running."""
        self.drafter.configure(settings)
        self._llm.reset_prefix_cache()

    def sample(
        self, requests: Sequence[Request], *, late: Sequence[Request] = ()
    ) -> list[TokenPath]:
        """Draw every request; ``late`` ones arrive once the others have begun. Results in order."""
        order = [self._add(request) for request in requests]
        finished: dict[str, TokenPath] = {}
        for _ in range(2 if late else 0):
            self._step(finished)
        order += [self._add(request) for request in late]
        while self._llm.llm_engine.has_unfinished_requests():
            self._step(finished)
        return [finished[request_id] for request_id in order]

    def _add(self, request: Request) -> str:
        from vllm import SamplingParams, TokensPrompt

        request_id = str(self._next_id)
        self._next_id += 1
        sampling = request.sampling
        params = SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_tokens=request.length,
            ignore_eos=True,
            detokenize=False,
            extra_args={"srt_lane": request.lane},
        )
        self._llm.llm_engine.add_request(
            request_id,
            TokensPrompt(prompt_token_ids=list(request.prompt)),
            params,
            priority=request.priority,
        )
        return request_id

    def _step(self, finished: dict[str, TokenPath]) -> None:
        for output in self._llm.llm_engine.step():
            if output.finished:
                finished[output.request_id] = tuple(output.outputs[0].token_ids)


class ExactPolicy:
    """The model's own next-token logits, by transformers."""

    def __init__(self, model: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    @torch.inference_mode()
    def logits(
        self, prompt: Sequence[int], continuations: Sequence[TokenPath], *, batch_size: int = 512
    ) -> NDArray[np.float64]:
        """[n, V] logits after ``prompt`` and each of n equally long continuations."""
        rows = torch.tensor([[*prompt, *continuation] for continuation in continuations])
        pieces = [
            self._model(input_ids=piece, logits_to_keep=1).logits[:, -1]
            for piece in torch.split(rows, batch_size)
        ]
        return np.asarray(torch.cat(pieces).double().numpy())
