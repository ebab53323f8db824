"""One arm of the live benchmark: a vLLM engine in its own process, told what to decode over a pipe.

It works when it is told to and for as long: the speed of a shared machine changes within seconds,
so arms that are to be compared work in turns of a fraction of a second.

Arms: `none` (stock, no speculation), `suffix` (vLLM's own, with our verification: its CPU kernels
are wrong at temperature > 0), `srt`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from srt_common.clock import SystemClock
from srt_rollout.processor import dtype_of

DTYPE = "bfloat16" if dtype_of("auto") == "auto" else "float32"
"""Of all arms: the faster one on this processor."""
NUM_DRAFT_TOKENS = 16
MAX_ROWS = 64
MAX_MODEL_LEN = 512
KV_CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Load:
    """Rollouts that start together."""

    prompts: Sequence[Sequence[int]]
    """[R] token ids, one prompt a rollout."""
    lengths: Sequence[int] | None
    """[R] tokens to decode; None: to the end of sequence."""
    temperature: float = 1.0
    has_empty_trees: bool = False
    """Forget all trees and the governor's fit first."""


@dataclass(slots=True)
class Decoded:
    """What one load took."""

    seconds: float
    lengths: list[int]
    rows: list[int] = field(default_factory=list)
    """Decoding rows of each engine step."""
    drafted: list[int] = field(default_factory=list)
    """Draft tokens verified in each engine step."""

    @property
    def seconds_per_token(self) -> float:
        """Over all rollouts of the load."""
        return self.seconds / sum(self.lengths)

    @property
    def tokens_per_step(self) -> float:
        """Generated tokens by request-steps."""
        return sum(self.lengths) / max(1, sum(self.rows))


class WorkingClock(SystemClock):
    """Stands still while others have their turn."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._waiting_since = super().monotonic()

    def monotonic(self) -> float:
        """Seconds of work since an arbitrary start."""
        return super().monotonic() - self._waited

    def wait(self) -> None:
        """Somebody else's turn begins."""
        self._waiting_since = super().monotonic()

    def go_on(self) -> None:
        """It is over."""
        self._waited += super().monotonic() - self._waiting_since


class LiveEngine:
    """A vLLM engine of this process, stepped by hand."""

    def __init__(self, arm: str, model: Path) -> None:
        from vllm import LLM

        options: dict[str, Any] = {}
        if arm == "suffix":
            options["speculative_config"] = {
                "method": "suffix",
                "num_speculative_tokens": NUM_DRAFT_TOKENS,
            }
        elif arm == "srt":
            options["speculative_config"] = {
                "method": "custom_class",
                "model": "srt_rollout.vllm_plugin.proposer.TreeDrafter",
                "num_speculative_tokens": NUM_DRAFT_TOKENS,
            }
            options["worker_cls"] = "srt_rollout.vllm_plugin.worker.SRTWorker"
        self._llm = LLM(
            model=str(model),
            skip_tokenizer_init=True,
            enforce_eager=True,
            dtype=DTYPE,
            max_num_seqs=MAX_ROWS,
            max_model_len=MAX_MODEL_LEN + NUM_DRAFT_TOKENS,
            kv_cache_memory_bytes=KV_CACHE_BYTES,
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            **options,
        )
        self._engine: Any = self._llm.llm_engine
        core = self._engine.engine_core.engine_core
        self._runner = core.model_executor.driver_worker.worker.model_runner
        if arm == "suffix":
            _verify_point_masses(self._runner)
        self._eos = eos_of(model)
        self._clock = WorkingClock()
        if arm == "srt":
            self._forget()
        self._next_id = 0
        self._decoded = Decoded(0.0, [])
        self._steps: list[tuple[int, int]] = []
        self._watch(core.scheduler)

    def start(self, load: Load) -> None:
        """Let all rollouts of a load begin."""
        if load.has_empty_trees:
            self._forget()
        for at, prompt in enumerate(load.prompts):
            self._add(prompt, None if load.lengths is None else load.lengths[at], load.temperature)
        self._steps.clear()
        self._decoded = Decoded(0.0, [])

    def go_on(self, seconds: float) -> bool:
        """Decode for so long; returns whether rollouts are left."""
        self._clock.go_on()
        started = time.perf_counter()
        is_left = True
        while is_left and time.perf_counter() < started + seconds:
            finished = (output for output in self._engine.step() if output.finished)
            self._decoded.lengths += [len(it.outputs[0].token_ids) for it in finished]
            is_left = self._engine.has_unfinished_requests()
        self._decoded.seconds += time.perf_counter() - started
        self._clock.wait()
        return is_left

    def finish(self, _: None) -> Decoded:
        """What the load took."""
        self._decoded.rows, self._decoded.drafted = map(list, zip(*self._steps, strict=True))
        return self._decoded

    def decode_in_order(self, load: Load) -> list[int]:
        """Natural lengths of the load's rollouts, in their order."""
        first = self._next_id
        for prompt in load.prompts:
            self._add(prompt, None, load.temperature)
        lengths = [0] * len(load.prompts)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    lengths[int(output.request_id) - first] = len(output.outputs[0].token_ids)
        return lengths

    def _forget(self) -> None:
        """Empty trees, nothing learned, and step times that leave out the turns of others."""
        from srt_rollout.vllm_plugin.settings import DrafterSettings
        from srt_rollout.vllm_plugin.step_timer import StepTimer

        self._runner.drafter.configure(DrafterSettings.from_environment())
        self._runner.drafter._timer = StepTimer(self._clock)

    def _add(self, prompt: Sequence[int], length: int | None, temperature: float) -> None:
        from vllm import SamplingParams, TokensPrompt

        params = SamplingParams(
            temperature=temperature,
            max_tokens=length or MAX_MODEL_LEN - len(prompt),
            ignore_eos=length is not None,
            stop_token_ids=None if length else [self._eos],
            logprobs=0,
            detokenize=False,
        )
        tokens = TokensPrompt(prompt_token_ids=list(prompt))
        self._engine.add_request(str(self._next_id), tokens, params)
        self._next_id += 1

    def _watch(self, scheduler: Any) -> None:
        """Note rows and draft tokens of every step."""
        schedule = scheduler.schedule

        def noted(*args: Any, **options: Any) -> Any:
            output = schedule(*args, **options)
            drafts = output.scheduled_spec_decode_tokens.values()
            self._steps.append((len(output.num_scheduled_tokens), sum(map(len, drafts))))
            return output

        scheduler.schedule = noted


def eos_of(model: Path) -> int:
    """The token that ends a rollout."""
    eos: int = json.loads((model / "config.json").read_text())["eos_token_id"]
    return eos


def serve(arm: str, model: Path, pipe: Connection) -> None:
    """Body of an arm's process: loads in, what they took out; None ends it."""
    engine = LiveEngine(arm, model)
    pipe.send(None)
    while (request := pipe.recv()) is not None:
        name, load = request
        pipe.send(getattr(engine, name)(load))


def _verify_point_masses(runner: Any) -> None:
    """Let our sampler verify another drafter's tokens."""
    import torch

    from srt_rollout.vllm_plugin import compat
    from srt_rollout.vllm_plugin.sampler import SparseDraft

    class Nobody:
        """Learns nothing."""

        def is_plain(self, _num_draft_tokens: list[int]) -> bool:
            return False

        def draft_distributions(self, _num_draft_tokens: list[int]) -> SparseDraft:
            raise NotImplementedError

        def on_bonus(self, _logits: Any, _sampling: Any) -> None:
            return

        def on_verified(self, _verification: Any) -> None:
            return

    def draft_probs(metadata: Any) -> Any:
        ids = metadata.draft_token_ids.to(torch.int64)[:, None]
        draft = SparseDraft(ids.clamp_min(0), (ids >= 0).to(torch.float32))
        return compat.DraftInFlight(draft, listener)

    listener = Nobody()
    compat.attach(runner, listener)
    runner._get_spec_decode_draft_probs = draft_probs
