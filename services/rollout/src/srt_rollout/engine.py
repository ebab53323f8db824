"""vLLM as a child process: its command line as data, its start, its health and its end.

* Listens on the loopback only: vLLM's own key guards half of its routes (reference: F5), the
  gateway all.
* No flag may undo that, run code of a model, or bring in what SRT refuses (design 12.17).
* Ends with this process, whatever ends it: `engine_guard` kills the group, SIGKILL included.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from srt_common.errors import ConfigurationError
from srt_rollout.engine_client import KEEP_ALIVE_SECONDS
from srt_rollout.processor import dtype_of
from srt_rollout.settings import RolloutSettings

SERVED_MODEL_NAME = "policy"
WEIGHT_BACKEND = "srt_disk"

_OWNED_FLAGS: Mapping[str, str] = {
    "--model": "SRT_ROLLOUT_MODEL",
    "--served-model-name": "the name 'policy'",
    "--host": "127.0.0.1, so that only the gateway reaches the engine",
    "--port": "SRT_ROLLOUT_ENGINE_PORT",
    "--uds": "a port on the loopback",
    "--max-num-seqs": "SRT_ROLLOUT_MAX_NUM_SEQS",
    "--max-model-len": "SRT_ROLLOUT_MAX_MODEL_LEN",
    "--dtype": "SRT_ROLLOUT_DTYPE",
    "--seed": "SRT_ROLLOUT_SEED",
    "--tensor-parallel-size": "SRT_ROLLOUT_TENSOR_PARALLEL_SIZE",
    "--enable-log-requests": "no request logging: prompts never reach a log",
    "--enable-log-outputs": "no output logging: completions never reach a log",
    "--logprobs-mode": "processed_logprobs, of the distribution that was sampled from",
    "--scheduling-policy": "priority, so that policy rollouts come first",
    "--worker-cls": "SRT's worker",
    "--scheduler-cls": "SRT's scheduler",
    "--weight-transfer-config": "SRT's shared-filesystem backend",
    "--generation-config": "vllm: sampling follows the request alone",
    "--override-generation-config": "none: sampling follows the request alone",
    "--config": "flags given one by one",
}
"""Flags the gateway sets, and to what."""

_REFUSED_FLAGS: Mapping[str, str] = {
    "--api-key": "clients present the gateway's token",
    "--trust-remote-code": "a model brings data, never code",
    "--allowed-local-media-path": "requests carry tokens only",
    "--allowed-media-domains": "requests carry tokens only",
    "--pipeline-parallel-size": "drafting needs a single pipeline stage",
    "--enable-lora": "weights are updated whole",
    "--lora-modules": "weights are updated whole",
    "--speculative-config": "SRT is the speculative method",
    "--spec-method": "SRT is the speculative method",
    "--spec-model": "SRT is the speculative method",
    "--spec-tokens": "SRT_ROLLOUT_MAX_DRAFT_TOKENS says how many",
    "--async-scheduling": "drafting from trees needs each step's tokens before the next",
    "--logits-processors": "they change the distribution that drafts are verified with",
    "--middleware": "no foreign code in front of the engine",
    "--tool-parser-plugin": "no foreign code in the engine",
    "--reasoning-parser-plugin": "no foreign code in the engine",
    "--io-processor-plugin": "no foreign code in the engine",
    "--worker-extension-cls": "no foreign code in the engine",
    "--model-class-overrides": "no foreign code in the engine",
    "--distributed-executor-backend": "no foreign code in the engine",
    "--kv-transfer-config": "no foreign code in the engine",
    "--ec-transfer-config": "no foreign code in the engine",
    "--enable-prompt-embeds": "prompts are token ids",
    "--root-path": "only the gateway reaches the engine",
    "--data-parallel-size": "one gateway serves one engine; raise the number of replicas",
    "--nnodes": "an engine lives in one pod",
}
"""Flags that would break a promise, and why."""

_SHORT_FLAGS = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-sc": "--speculative-config",
}


def refused_flags(extra_args: Sequence[str], *, drafter_enabled: bool) -> list[str]:
    """A sentence for each argument that may not be given; empty: all are fine.

    Knows abbreviations: argparse takes ``--trust`` for ``--trust-remote-code``.
    """
    sentences = []
    for argument in extra_args:
        if not argument.startswith("-"):
            continue
        given = argument.split("=", maxsplit=1)[0].split(".", maxsplit=1)[0].replace("_", "-")
        given = _SHORT_FLAGS.get(given, given).replace("--no-", "--", 1)
        for flag, reason in {**_OWNED_FLAGS, **_REFUSED_FLAGS}.items():
            if not _means(given, flag):
                continue
            if flag == "--async-scheduling" and not drafter_enabled:
                continue
            verb = "is set by the gateway to" if flag in _OWNED_FLAGS else "is not allowed:"
            sentences.append(f"SRT_ROLLOUT_EXTRA_ARGS has {argument!r}; {flag} {verb} {reason}")
    return sentences


def _means(given: str, flag: str) -> bool:
    """True when argparse could take ``given`` for ``flag``."""
    return given == flag or (len(given) > 3 and given.startswith("--") and flag.startswith(given))


def command(
    settings: RolloutSettings, *, port: int, seed: int, longest: int | None = None
) -> list[str]:
    """Command line of vLLM. ``longest``: positions the model was made for, where that is known.

    Raises:
        ConfigurationError: every argument of ``extra_args`` that may not be given.
    """
    faults = refused_flags(settings.extra_args, drafter_enabled=settings.drafter_enabled)
    if faults:
        raise ConfigurationError(faults=faults)
    flags: dict[str, str | int | None] = {
        "--model": str(settings.model),
        "--served-model-name": SERVED_MODEL_NAME,
        "--host": "127.0.0.1",
        "--port": port,
        "--enable-scale-out": None,
        "--skip-tokenizer-init": None,
        "--generation-config": "vllm",
        "--logprobs-mode": "processed_logprobs",
        "--scheduling-policy": "priority",
        "--max-num-seqs": settings.max_num_seqs,
        "--max-model-len": settings.max_model_len,
        "--dtype": dtype_of(settings.dtype),
        "--seed": seed,
        "--tensor-parallel-size": settings.tensor_parallel_size,
        "--weight-transfer-config": json.dumps({"backend": WEIGHT_BACKEND}),
        "--no-enable-log-requests": None,
        "--disable-uvicorn-access-log": None,
    }
    if settings.enforce_eager:
        flags["--enforce-eager"] = None
    if settings.kv_cache_memory_bytes is not None:
        flags["--kv-cache-memory-bytes"] = settings.kv_cache_memory_bytes
    if _is_single_process(settings):
        flags["--distributed-executor-backend"] = "uni"
    if settings.drafter_enabled:
        flags |= _drafting_flags(settings, longest)
    words = [[flag] if value is None else [flag, str(value)] for flag, value in flags.items()]
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    return program + [word for pair in words for word in pair] + list(settings.extra_args)


def _drafting_flags(settings: RolloutSettings, longest: int | None) -> dict[str, str | int | None]:
    """What makes a stock vLLM draft from trees. A request that comes within a draft of the engine's
    length limit would stop drafting for the whole batch, so the limit leaves room for one.
    """
    plugin = "srt_rollout.vllm_plugin"
    speculation = {
        "method": "custom_class",
        "model": f"{plugin}.proposer.TreeDrafter",
        "num_speculative_tokens": settings.max_draft_tokens,
    }
    length = settings.max_model_len + settings.max_draft_tokens
    if longest is not None and settings.max_model_len <= longest:
        length = min(length, longest)  # vLLM refuses more than the model was made for
    return {
        "--max-model-len": length,
        "--speculative-config": json.dumps(speculation),
        "--per-request-spec-decode-metrics": "summary",
        "--worker-cls": f"{plugin}.worker.SRTWorker",
        "--scheduler-cls": f"{plugin}.scheduler.PreemptingScheduler",
    }


def environment(settings: RolloutSettings, *, metrics_folder: Path) -> dict[str, str | None]:
    """Variables of the engine beside its parent's; None: taken away.

    ``metrics_folder`` lets the counters of all engine processes appear on vLLM's ``/metrics``.
    """
    variables: dict[str, str | None] = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": None,
        "VLLM_API_KEY": None,
        "VLLM_USE_V2_MODEL_RUNNER": None,
        "PROMETHEUS_MULTIPROC_DIR": str(metrics_folder),
        "SRT_DRAFTER_ENGINE_NAME": settings.engine_name,
    }
    if settings.cache_secret_file is not None:
        variables["SRT_DRAFTER_CACHE_SECRET_FILE"] = str(settings.cache_secret_file)
    if settings.num_threads is not None:
        variables |= {
            "OMP_NUM_THREADS": str(settings.num_threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    if _is_single_process(settings):
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return variables


def _is_single_process(settings: RolloutSettings) -> bool:
    """On a CPU with its threads given, the worker may run inside the engine core: a step of a small
    model takes a fifth less time (vLLM picks two processes only to set OpenMP's threads itself).
    """
    return settings.num_threads is not None and settings.tensor_parallel_size == 1


def guarded(command_line: Sequence[str], variables: Mapping[str, str | None]) -> list[str]:
    """The command under `engine_guard`, with variables set and taken away."""
    removed = [word for name, value in variables.items() if value is None for word in ("-u", name)]
    added = [f"{name}={value}" for name, value in variables.items() if value is not None]
    guard = [sys.executable, "-m", "srt_rollout.engine_guard"]
    return [*guard, "env", *removed, *added, *command_line]


def vocabulary_size(model: Path) -> int:
    """Rows of the model's embedding: ids from here on would end the engine.

    Raises:
        ConfigurationError: the folder holds no model.
    """
    config = _model_config(model)
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    if not isinstance(size, int) or size < 1:
        raise ConfigurationError(
            faults=[f"SRT_ROLLOUT_MODEL is '{model}'; its config.json names no vocab_size"]
        )
    return size


def free_port() -> int:
    """A port on the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class EngineProcess:
    """The running engine. Its output goes to ours."""

    def __init__(self, process: asyncio.subprocess.Process, *, port: int) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}"

    @classmethod
    async def start(cls, settings: RolloutSettings, *, metrics_folder: Path) -> EngineProcess:
        """Start vLLM; it is not healthy yet. Raises ConfigurationError."""
        port = settings.engine_port or free_port()
        seed = secrets.randbelow(2**31) if settings.seed is None else settings.seed
        words = guarded(
            command(settings, port=port, seed=seed, longest=longest_context(settings.model)),
            environment(settings, metrics_folder=metrics_folder),
        )
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, start_new_session=True
        )
        return cls(process, port=port)

    @property
    def is_running(self) -> bool:
        """False once the engine's main process has ended."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Its exit status once it has ended; what it left running is killed."""
        status = await self._process.wait()
        self._kill_group()
        return status

    async def stop(self, *, timeout_seconds: float) -> None:
        """SIGTERM, then SIGKILL to the whole group. Idempotent."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), timeout_seconds)
        self._kill_group()
        await self._process.wait()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def longest_context(model: Path) -> int | None:
    """Positions that a model was made for; None where its configuration does not say.

    Raises:
        ConfigurationError: the folder holds no model.
    """
    longest = _model_config(model).get("max_position_embeddings")
    return longest if isinstance(longest, int) else None


def _model_config(model: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((model / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            faults=[f"SRT_ROLLOUT_MODEL is '{model}'; its config.json cannot be read: {error}"]
        ) from error
    return config
