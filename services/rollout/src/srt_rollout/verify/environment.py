"""Settings of vLLM for an engine inside this process. Imports nothing of it: it reads them once."""

from __future__ import annotations

from srt_common.settings import set_environment

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}


def prepare_environment() -> None:
    """Set them; call before anything imports vLLM."""
    set_environment(ENVIRONMENT)
