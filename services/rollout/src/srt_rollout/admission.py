"""What a client may ask of the engine: bodies in, checked requests out.

* Pure. Only the fields named here reach vLLM: what it would fetch, decode or load on a client's
  word does not.
* The engine runs without a tokenizer and checks no prompt id: one beyond the embedding ends it.
  Checked here.
* Refusals name the field and what is allowed; they never repeat a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from srt_common.errors import EngineRefused
from srt_common.messages.rollouts import (
    PRIORITY_OF_LANE,
    ExtraArgs,
    GenerateRequest,
    SamplingParams,
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:#/@+-]{1,200}\Z")
_MAX_NAME_LENGTH = 256
_MAX_SEED = 2**63 - 1


class AcceptedExtraArgs(ExtraArgs, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """SRT's keys and no others."""


class AcceptedSamplingParams(SamplingParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes through of vLLM's ``SamplingParams``, and what is refused with a sentence."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    ignore_eos: bool = False
    allowed_token_ids: list[int] | None = None
    structured_outputs: dict[str, Any] | None = None
    skip_special_tokens: bool = True
    min_p: float = 0.0
    logit_bias: dict[str, float] | None = None
    extra_args: AcceptedExtraArgs = AcceptedExtraArgs()


class AcceptedGenerate(GenerateRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /inference/v1/generate``."""

    sampling_params: AcceptedSamplingParams
    stream: bool = False
    model: str | None = None


class AcceptedCompletion(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Body of ``POST /v1/completions``, prompts as token ids; always of lane ``policy``."""

    prompt: list[int]
    max_tokens: int
    model: str | None = None
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    allowed_token_ids: list[int] | None = None
    stream: bool = False
    return_token_ids: bool | None = None
    min_p: float | None = None
    logit_bias: dict[str, float] | None = None
    priority: int = 0
    vllm_xargs: AcceptedExtraArgs = AcceptedExtraArgs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one engine takes."""

    engine: str
    max_model_len: int
    vocabulary_size: int


_DECODE_GENERATE = msgspec.json.Decoder(AcceptedGenerate)
_DECODE_COMPLETION = msgspec.json.Decoder(AcceptedCompletion)
_ENCODE = msgspec.json.Encoder()


def generate_request(body: bytes, limits: Limits) -> AcceptedGenerate:
    """Decode and check. Raises EngineRefused."""
    try:
        request = _DECODE_GENERATE.decode(body)
    except msgspec.MsgspecError as error:
        raise EngineRefused(engine=limits.engine, reason=str(error)) from error
    params = request.sampling_params
    faults = [
        _id_fault(request.request_id),
        _sampling_fault(params.n, params.min_p, params.logit_bias, params.seed),
        _length_fault(len(request.token_ids), params.max_tokens, limits),
        _vocabulary_fault("token_ids", request.token_ids, limits),
        _vocabulary_fault("sampling_params.stop_token_ids", params.stop_token_ids, limits),
        _vocabulary_fault("sampling_params.allowed_token_ids", params.allowed_token_ids, limits),
        _extra_fault(params.extra_args, len(request.token_ids)),
        _stream_fault(request.stream),
    ]
    _refuse_first(faults, limits)
    return request


def completion_request(body: bytes, limits: Limits) -> AcceptedCompletion:
    """Decode and check. Raises EngineRefused."""
    try:
        request = _DECODE_COMPLETION.decode(body)
    except msgspec.MsgspecError as error:
        raise EngineRefused(engine=limits.engine, reason=str(error)) from error
    faults = [
        _sampling_fault(request.n, request.min_p or 0.0, request.logit_bias, request.seed),
        _length_fault(len(request.prompt), request.max_tokens, limits),
        _vocabulary_fault("prompt", request.prompt, limits),
        _vocabulary_fault("stop_token_ids", request.stop_token_ids, limits),
        _vocabulary_fault("allowed_token_ids", request.allowed_token_ids, limits),
        _extra_fault(request.vllm_xargs, len(request.prompt)),
        _lane_fault(request.vllm_xargs.srt_lane),
        _stream_fault(request.stream),
    ]
    _refuse_first(faults, limits)
    return request


def generate_body(request: AcceptedGenerate, *, traceparent: str | None) -> bytes:
    """What vLLM gets: priority by lane, whatever the client asked for, and our trace context."""
    extra = msgspec.structs.replace(
        request.sampling_params.extra_args,
        traceparent=traceparent or request.sampling_params.extra_args.traceparent,
    )
    params = msgspec.structs.replace(request.sampling_params, extra_args=extra)
    return _ENCODE.encode(
        msgspec.structs.replace(
            request,
            sampling_params=params,
            priority=PRIORITY_OF_LANE[extra.srt_lane],
            model=None,
        )
    )


def completion_body(request: AcceptedCompletion, *, traceparent: str | None) -> bytes:
    """What vLLM gets; see `generate_body`."""
    extra = msgspec.structs.replace(
        request.vllm_xargs, traceparent=traceparent or request.vllm_xargs.traceparent
    )
    priority = PRIORITY_OF_LANE["policy"]
    return _ENCODE.encode(
        msgspec.structs.replace(request, vllm_xargs=extra, priority=priority, model=None)
    )


def _refuse_first(faults: Sequence[str | None], limits: Limits) -> None:
    for fault in faults:
        if fault is not None:
            raise EngineRefused(engine=limits.engine, reason=fault)


def _id_fault(request_id: str) -> str | None:
    if _REQUEST_ID.match(request_id):
        return None
    return "request_id is not 1 to 200 of letters, digits and . _ : # / @ + -"


def _sampling_fault(
    n: int, min_p: float, logit_bias: dict[str, float] | None, seed: int | None
) -> str | None:
    if n != 1:
        return f"n is {n}; allowed is 1: send one request per rollout"
    if min_p != 0.0:
        return f"min_p is {min_p}; allowed is 0: vLLM cannot verify drafts with it"
    if logit_bias:
        return "logit_bias is set; it is not allowed: vLLM cannot verify drafts with it"
    if seed is not None and not 0 <= seed <= _MAX_SEED:
        return f"seed is {seed}; allowed are 0 to {_MAX_SEED}"
    return None


def _length_fault(num_prompt_tokens: int, max_tokens: int, limits: Limits) -> str | None:
    if num_prompt_tokens < 1:
        return "the prompt has 0 tokens; allowed are 1 or more"
    if max_tokens < 1:
        return f"max_tokens is {max_tokens}; allowed are 1 or more"
    if num_prompt_tokens + max_tokens > limits.max_model_len:
        return (
            f"prompt and max_tokens are {num_prompt_tokens} + {max_tokens} tokens; "
            f"allowed are {limits.max_model_len} together"
        )
    return None


def _vocabulary_fault(field: str, token_ids: list[int] | None, limits: Limits) -> str | None:
    if not token_ids or (min(token_ids) >= 0 and max(token_ids) < limits.vocabulary_size):
        return None
    return (
        f"{field} has an id outside the vocabulary; allowed are 0 to {limits.vocabulary_size - 1}"
    )


def _lane_fault(lane: str) -> str | None:
    if lane == "policy":
        return None
    return f"vllm_xargs.srt_lane is {lane!r}; allowed on this route is 'policy'"


def _stream_fault(is_stream: bool) -> str | None:
    return "stream is True; allowed is False: a rollout is answered whole" if is_stream else None


def _extra_fault(extra: ExtraArgs, num_tokens: int) -> str | None:
    for name in ("srt_rollout_id", "srt_prompt_id", "srt_group_id", "traceparent"):
        value = getattr(extra, name)
        if value is not None and len(value) > _MAX_NAME_LENGTH:
            return f"{name} has {len(value)} characters; allowed are {_MAX_NAME_LENGTH}"
    num_prompt = extra.srt_num_prompt_tokens
    if num_prompt is not None and not 1 <= num_prompt <= num_tokens:
        return (
            f"srt_num_prompt_tokens is {num_prompt}; allowed are 1 to {num_tokens}, the tokens sent"
        )
    version = extra.srt_policy_version
    if version is not None and not 0 <= version < 2**32:
        return f"srt_policy_version is {version}; allowed are 0 to {2**32 - 1}"
    return None
