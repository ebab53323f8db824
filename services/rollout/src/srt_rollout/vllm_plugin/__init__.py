"""SRT inside an unmodified vLLM: drafter, worker, sampler, scheduler, weight transfer.

vLLM loads these by name (flags and the ``vllm.general_plugins`` entry point); nothing else imports
them.
"""

from __future__ import annotations

WEIGHT_BACKEND = "srt_disk"


def register() -> None:
    """Make the shared-filesystem weight backend known to this process (API server, engine core,
    workers).
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    try:
        WeightTransferEngineFactory.register_engine(
            WEIGHT_BACKEND, "srt_rollout.vllm_plugin.weight_transfer", "SharedFilesystemEngine"
        )
    except ValueError:  # vLLM loads plug-ins more than once in a process
        return
