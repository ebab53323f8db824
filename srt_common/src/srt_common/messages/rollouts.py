"""Requests and answers of a rollout: vLLM's own ``/inference/v1/generate`` shape, typed as far as
we use it.

* n samples of a prompt are n requests (per-request acceptance is reported for n = 1 only).
* What SRT adds travels in ``sampling_params.extra_args`` under ``srt_*`` keys; a stock vLLM ignores
  them.
* The answer's ``token_ids`` and ``logprobs`` are the sampler's own; ``logprobs`` follow the
  engine's ``--logprobs-mode processed_logprobs``: of the distribution that was sampled from.
"""

from __future__ import annotations

from typing import Literal

import msgspec

GENERATE_PATH = "/inference/v1/generate"
ABORT_PATH = "/inference/v1/abort_requests"
WEIGHTS_PATH = "/srt/v1/weights"
STATS_PATH = "/srt/v1/stats"
LOAD_PATH = "/load"
LIVEZ_PATH = "/livez"
READYZ_PATH = "/readyz"

ENGINE_ID_PREFIX = "generate-tokens-"
"""What vLLM puts before a request id of `GENERATE_PATH`; its abort route wants the prefixed id."""

Lane = Literal["policy", "run_ahead"]

PRIORITY_OF_LANE: dict[Lane, int] = {"policy": 0, "run_ahead": 10}
"""vLLM's ``priority``: smaller goes first."""


class ExtraArgs(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What SRT's drafter and gateway read; flat, so that ``/v1/completions`` can carry it too."""

    srt_rollout_id: str = ""
    """The client's id of a rollout, kept over its turns and attempts."""
    srt_prompt_id: str | None = None
    """Names the task where prompt tokens alone may coincide; None: the prompt tokens name it."""
    srt_group_id: str | None = None
    srt_policy_version: int | None = None
    """Which weights must sample a rollout of lane ``policy``; None: any. Elsewhere a remark."""
    srt_lane: Lane = "policy"
    srt_num_prompt_tokens: int | None = None
    """How many leading ``token_ids`` are the prompt of the first turn; None: all. The rest is
    context.
    """
    traceparent: str | None = None
    """W3C trace context of the client, for the engine's span of this rollout."""


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The part of vLLM's ``SamplingParams`` that SRT's clients set."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 or -1: no limit."""
    seed: int | None = None
    logprobs: int | None = None
    """0: the sampled token's own log-probability."""
    stop_token_ids: list[int] | None = None
    detokenize: bool = True
    extra_args: ExtraArgs = ExtraArgs()


class GenerateRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Body of ``POST /inference/v1/generate``."""

    request_id: str
    token_ids: list[int]
    sampling_params: SamplingParams
    priority: int = 0


class TokenLogprob(msgspec.Struct, frozen=True):
    """One sampled token."""

    token_id: int
    logprob: float


class ChoiceLogprobs(msgspec.Struct, frozen=True):
    """One entry per sampled token, or None when none were asked for."""

    content: list[TokenLogprob] | None = None


class WeightVersionSpan(msgspec.Struct, frozen=True):
    """Sampled tokens start..end-1 came from the weights labelled ``version``."""

    version: str
    start: int
    end: int


class Choice(msgspec.Struct, frozen=True):
    """One sampled response; of an aborted one the tokens so far."""

    token_ids: list[int] | None = None
    finish_reason: str | None = None
    """``stop``, ``length`` or ``abort``."""
    logprobs: ChoiceLogprobs | None = None
    weight_versions: list[WeightVersionSpan] | None = None


class SpeculativeDecodingMetrics(msgspec.Struct, frozen=True):
    """vLLM's per-request acceptance; ``num_spec_steps`` counts steps that verified a draft."""

    num_spec_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_draft_tokens: int = 0

    def num_request_steps(self, num_tokens: int) -> int:
        """Decoding passes behind an answer of ``num_tokens`` >= 1 tokens, the prefill not counted.

        vLLM counts accepted drafts before it cuts an answer at its stop token, so the last pass may
        claim tokens that were never given; a pass that verified a draft is a pass all the same.
        """
        return max(num_tokens - 1 - self.num_accepted_draft_tokens, self.num_spec_steps, 0)


class RequestMetrics(msgspec.Struct, frozen=True):
    """vLLM's ``metrics`` of one request."""

    speculative_decoding: SpeculativeDecodingMetrics | None = None


class GenerateResponse(msgspec.Struct, frozen=True):
    """Answer of ``POST /inference/v1/generate``; unknown fields are ignored."""

    choices: list[Choice]
    request_id: str = ""
    metrics: RequestMetrics | None = None


class AbortRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /inference/v1/abort_requests``: clients' own request ids, no prefix."""

    request_ids: list[str]


class WeightUpdate(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """Body of ``POST /srt/v1/weights``: load safetensors from exactly one of ``path`` and ``url``.

    Order kept by the gateway: pause, load, reset the prefix cache, tell the drafter, resume (design
    12.15).
    """

    path: str = ""
    """Folder name relative to the weights root, for instance ``policy-000012``."""
    policy_version: int
    url: str = ""
    """Where the manifest lies (`messages.weights`); the files are fetched below the weights
    root."""


class EngineLoad(msgspec.Struct, frozen=True):
    """Answer of ``GET /load``. Counts are requests inside the engine or waiting at its gateway."""

    engine: str
    policy_version: int
    """-1: the last weight update failed half way; nothing is sampled before another succeeds."""
    max_num_seqs: int
    reserve_slots: int
    num_running_policy: int
    num_waiting_policy: int
    num_running_run_ahead: int
    num_preemptions: int = 0
    kv_cache_usage: float = 0.0
    """0..1."""
    is_paused: bool = False
    is_draining: bool = False
    weights_url: str = ""
    """Where the weights in use were fetched; empty: from a folder, or those it started with."""
    gpu_utilization: float | None = None
    """0..1, of the busiest GPU of the pod, by NVML; None: no data."""
    gpu_age_seconds: float = 0.0
    """Since NVML was asked."""


DECODE_RESPONSE = msgspec.json.Decoder(GenerateResponse)
DECODE_LOAD = msgspec.json.Decoder(EngineLoad)
ENCODE_JSON = msgspec.json.Encoder()
