"""The worker class (``--worker-cls``): binds the drafter to the model runner and passes it the
schedule.

Also the methods that ``/collective_rpc`` may call: `srt_stats`, `srt_set_policy_version`.
"""

from __future__ import annotations

from typing import Any

from vllm.platforms import current_platform

from srt_rollout.vllm_plugin.proposer import TreeDrafter

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class SRTWorker(PlatformWorker):
    """vLLM's own worker of the platform, with the drafter told what the scheduler decided."""

    def load_model(self, *args: Any, **options: Any) -> Any:
        result = super().load_model(*args, **options)
        self._drafter().bind(self.model_runner)
        return result

    def execute_model(self, scheduler_output: Any) -> Any:
        self._drafter().on_schedule(scheduler_output)
        return super().execute_model(scheduler_output)

    def shutdown(self) -> None:
        self._drafter().shutdown()
        super().shutdown()

    def srt_stats(self) -> dict[str, Any]:
        """Counters of this engine's trees and drafts."""
        return self._drafter().stats()

    def srt_set_policy_version(self, policy_version: int) -> None:
        """From now on tokens are sampled by these weights."""
        self._drafter().set_policy_version(policy_version)

    def _drafter(self) -> TreeDrafter:
        drafter = getattr(self.model_runner, "drafter", None)
        if not isinstance(drafter, TreeDrafter):
            raise TypeError(
                f"the drafter is {type(drafter).__name__}; SRTWorker needs --speculative-config, "
                "method 'custom_class' and model 'srt_rollout.vllm_plugin.proposer.TreeDrafter'"
            )
        return drafter
