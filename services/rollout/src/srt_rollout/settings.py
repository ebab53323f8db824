"""Settings of a rollout pod, ``SRT_ROLLOUT_*``: the gateway and the engine behind it.

The drafter inside the engine reads ``SRT_DRAFTER_*`` from the same environment
(`srt_rollout.vllm_plugin.settings`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from srt_common.settings import ServiceSettings

_URL_PREFIX = r"^https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._-]+)*/?$"

Port = Annotated[int, Field(ge=0, le=65_535)]


class RolloutSettings(ServiceSettings):
    """One engine and its gateway."""

    model_config = SettingsConfigDict(env_prefix="SRT_ROLLOUT_")

    engine_name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """Names this engine to trainer, operator and tree cache; unique within a job. Required."""

    model: Path
    """Folder with ``config.json`` and safetensors of the first policy. Required."""

    token_file: Path
    """File with the bearer token that clients present; read again when it changes. Required."""

    host: str = "127.0.0.1"
    """Address the gateway listens on. vLLM itself listens on the loopback only."""

    port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    """Port the gateway listens on."""

    engine_port: Port = 0
    """Port of vLLM on the loopback; 0: a free one."""

    weights_root: Path | None = None
    """Folder that every weight update lies below; unset: weights cannot be updated."""

    weights_url_prefix: Annotated[str, Field(pattern=_URL_PREFIX)] | None = None
    """Base that the URL of every weight update lies below, for instance
    ``http://tiny-math-trainer:8090``; unset: weights come by path only."""

    max_weights_bytes: Annotated[int, Field(ge=1)] = 2**41
    """Largest policy that is fetched."""

    drafter_enabled: bool = True
    """False: stock vLLM, no drafting, its own scheduler. The gateway is the same."""

    max_draft_tokens: Annotated[int, Field(ge=1, le=127)] = 16
    """Longest draft of one request in one step."""

    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] = 256
    """Requests decoded together: the engine's slots."""

    reserve_slots: Annotated[int, Field(ge=0)] = 2
    """Slots that run-ahead never takes, so that policy requests find one at once."""

    max_waiting_requests: Annotated[int, Field(ge=0)] = 1024
    """Policy requests that may wait beyond ``max_num_seqs``; more are answered EngineBusy."""

    max_model_len: Annotated[int, Field(ge=2)] = 4096
    """Prompt and response tokens of one request together. The engine has room for a draft
    besides."""

    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * 2**20
    """Largest request body."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the engine's weights and activations; ``auto``: the model's as vLLM takes it, but float32
    on a CPU without instructions for bfloat16."""

    enforce_eager: bool = False
    """No graph capture or compilation: starts faster, decodes slower on GPUs."""

    kv_cache_memory_bytes: Annotated[int, Field(ge=2**20)] | None = None
    """Memory of the KV cache; unset: vLLM sizes it from what is free."""

    tensor_parallel_size: PositiveInt = 1
    """Devices one engine spans."""

    num_threads: PositiveInt | None = None
    """OpenMP threads of the engine on a CPU, not pinned to cores; unset: vLLM decides and pins."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Of the engine's sampling; unset: a fresh one at each start, so that no two engines and no
    restarted one sample alike."""

    extra_args: Annotated[tuple[str, ...], NoDecode] = ()
    """Further flags for vLLM as a JSON list, for instance ``["--block-size=32"]``. Flags that would
    break the pod's safety or its promises are refused."""

    tree_cache_url: Annotated[str, Field(pattern=r"^https?://[^/?#]+$")] | None = None
    """Tree cache service that is told of prompts as they arrive; unset: nobody is told."""

    tree_cache_token_file: Path | None = None
    """Bearer token of the tree cache; required with ``tree_cache_url``."""

    cache_secret_file: Path | None = None
    """Secret that keys prompt digests; required with ``tree_cache_url``."""

    metrics_max_age_seconds: PositiveFloat = 2.0
    """How old the preemption count and KV cache usage in ``/load`` may be."""

    cuda_visible_devices: Annotated[
        str | None, Field(validation_alias="CUDA_VISIBLE_DEVICES", max_length=4096)
    ] = None
    """CUDA's own variable: the GPUs whose utilisation ``/load`` tells; unset: all of the pod."""

    start_timeout_seconds: PositiveFloat = 900.0
    """How long the engine may take until it is healthy."""

    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long policy requests may go on after SIGTERM."""

    stop_seconds: PositiveFloat = 10.0
    """How long the engine may take to stop before it is killed."""

    @field_validator("extra_args", mode="before")
    @classmethod
    def _is_a_json_list(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError("allowed is a JSON list of strings") from error

    @model_validator(mode="after")
    def _slots_fit(self) -> Self:
        if self.reserve_slots >= self.max_num_seqs:
            raise ValueError(
                f"reserve_slots is {self.reserve_slots}; allowed are 0 to max_num_seqs - 1, "
                f"{self.max_num_seqs - 1}"
            )
        return self

    @model_validator(mode="after")
    def _weights_have_a_place(self) -> Self:
        if self.weights_url_prefix is not None and self.weights_root is None:
            raise ValueError("weights_url_prefix needs weights_root, where the files are put")
        return self

    @model_validator(mode="after")
    def _tree_cache_is_complete(self) -> Self:
        given = (self.tree_cache_token_file, self.cache_secret_file)
        if self.tree_cache_url is not None and None in given:
            raise ValueError("tree_cache_url needs tree_cache_token_file and cache_secret_file")
        return self
