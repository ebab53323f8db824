"""One rollout pod: the engine behind it, what is in flight, and the life of both.

    starting -> serving -> draining -> gone
                   |  ^
                   v  |  (weights undefined after an update that failed half way,
                not serving                       or an engine that is not healthy any more)

Belongs to one event loop; the gateway's routes call it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from srt_common.clock import Clock
from srt_common.errors import EngineUnavailable
from srt_common.messages.rollouts import EngineLoad, ExtraArgs
from srt_common.telemetry.propagation import TRACEPARENT
from srt_rollout import admission
from srt_rollout.admission import AcceptedCompletion, AcceptedGenerate, Limits
from srt_rollout.engine_client import EngineClient
from srt_rollout.flights import Flights
from srt_rollout.gpus import GPUs
from srt_rollout.lanes import Lanes
from srt_rollout.load import EngineGauges, GaugeReader, GPUGauge, parse_gauges
from srt_rollout.prefetch import PromptPrefetch
from srt_rollout.rollout_trace import RolloutTraces
from srt_rollout.settings import RolloutSettings
from srt_rollout.weight_files import WeightFiles
from srt_rollout.weights import Weights

HEALTH_INTERVAL_SECONDS: Final = 0.5
WATCH_INTERVAL_SECONDS: Final = 2.0
MAX_UNHEALTHY_LOOKS: Final = 10
"""One after the other; then the engine is given up."""
GPU_INTERVAL_SECONDS: Final = 0.5


class Pod:
    """Everything the routes need, wired once."""

    def __init__(
        self,
        settings: RolloutSettings,
        client: EngineClient,
        *,
        limits: Limits,
        traces: RolloutTraces,
        prefetch: PromptPrefetch | None,
        clock: Clock,
    ) -> None:
        self.client = client
        self.limits = limits
        self._settings = settings
        self._prefetch = prefetch
        self._clock = clock
        self._lanes = Lanes(
            max_num_seqs=settings.max_num_seqs,
            reserve_slots=settings.reserve_slots,
            max_waiting=settings.max_waiting_requests,
        )
        self.flights = Flights(self._lanes, client.abort, engine=limits.engine)
        self.weights = Weights(
            client,
            self.flights,
            files=WeightFiles.of(settings),
            has_drafter=settings.drafter_enabled,
        )
        self._traces = traces
        self._gauges = GaugeReader(
            self._engine_gauges,
            EngineGauges(),
            max_age_seconds=settings.metrics_max_age_seconds,
            clock=clock,
        )
        self._gpus = GPUs(settings.cuda_visible_devices)
        self._gpu_gauge = GaugeReader(
            self._gpu_reading,
            GPUGauge(None, clock.monotonic()),
            max_age_seconds=GPU_INTERVAL_SECONDS,
            clock=clock,
        )
        self._is_started = False
        self._is_healthy = True
        self._is_draining = False

    # -- rollouts
    async def generate(self, wanted: AcceptedGenerate, headers: Mapping[str, str]) -> bytes:
        """The engine's answer to a rollout. Raises EngineError."""
        self.refuse_unless_serving()
        extra = wanted.sampling_params.extra_args
        self._refuse_other_weights(extra)
        with self._traces.rollout(
            extra, headers=headers, num_prompt_tokens=len(wanted.token_ids)
        ) as rollout:
            self._expect(wanted, rollout.headers)
            body = admission.generate_body(wanted, traceparent=rollout.headers.get(TRACEPARENT))
            rollout.answer = await self.flights.fly(
                wanted.request_id,
                extra.srt_lane,
                lambda: self.client.generate(body, rollout.headers),
            )
            return rollout.answer

    async def complete(
        self, request_id: str, wanted: AcceptedCompletion, headers: Mapping[str, str]
    ) -> bytes:
        """The engine's answer to a completion. Raises EngineError."""
        self.refuse_unless_serving()
        extra = wanted.vllm_xargs
        self._refuse_other_weights(extra)
        with self._traces.rollout(
            extra, headers=headers, num_prompt_tokens=len(wanted.prompt)
        ) as rollout:
            body = admission.completion_body(wanted, traceparent=rollout.headers.get(TRACEPARENT))
            rollout.answer = await self.flights.fly(
                request_id, extra.srt_lane, lambda: self.client.complete(body, rollout.headers)
            )
            return rollout.answer

    def _expect(self, wanted: AcceptedGenerate, trace_headers: Mapping[str, str]) -> None:
        """Let the tree cache know of a prompt that has not been seen lately."""
        if self._prefetch is None:
            return
        extra = wanted.sampling_params.extra_args
        prompt = wanted.token_ids[: extra.srt_num_prompt_tokens]
        self._prefetch.hint(prompt, extra.srt_prompt_id, trace_headers)

    # -- what it is doing
    def load(self) -> EngineLoad:
        """Counts now, gauges of a moment ago. Raises EngineUnavailable before the engine serves."""
        self.refuse_unless_started()
        gauges = self._gauges.latest()
        gpu = self._gpu_gauge.latest()
        return EngineLoad(
            engine=self.limits.engine,
            policy_version=self.weights.policy_version if self.weights.are_defined else -1,
            max_num_seqs=self._settings.max_num_seqs,
            reserve_slots=self._settings.reserve_slots,
            num_running_policy=self._lanes.num_running_policy,
            num_waiting_policy=self._lanes.num_waiting_policy,
            num_running_run_ahead=self._lanes.num_run_ahead,
            num_preemptions=gauges.num_preemptions,
            kv_cache_usage=gauges.kv_cache_usage,
            is_paused=self.weights.is_paused or not self.weights.are_defined,
            is_draining=self._is_draining,
            weights_url=self.weights.url,
            gpu_utilization=gpu.utilization,
            gpu_age_seconds=self._clock.monotonic() - gpu.asked_at,
        )

    async def _engine_gauges(self) -> EngineGauges:
        return parse_gauges(await self.client.metrics())

    async def _gpu_reading(self) -> GPUGauge:
        asked_at = self._clock.monotonic()
        return GPUGauge(await asyncio.to_thread(self._gpus.utilization), asked_at)

    async def stats(self) -> dict[str, Any]:
        """The drafter's counters; without a drafter only whose they would be."""
        self.refuse_unless_started()
        if not self._settings.drafter_enabled:
            return {
                "engine": self.limits.engine,
                "policy_version": self.weights.policy_version,
            }
        return await self.client.stats()

    def refuse_unless_serving(self) -> None:
        """Raises EngineUnavailable with the reason."""
        self.refuse_unless_started()
        if self._is_draining:
            raise EngineUnavailable(engine=self.limits.engine, reason="draining")
        if self.weights.is_updating:
            raise EngineUnavailable(engine=self.limits.engine, reason="new weights are loaded")
        if not self.weights.are_defined:
            raise EngineUnavailable(
                engine=self.limits.engine, reason="the last weight update failed half way"
            )

    def _refuse_other_weights(self, extra: ExtraArgs) -> None:
        """What is learnt from is sampled by the weights it asks for, or elsewhere."""
        wanted, have = extra.srt_policy_version, self.weights.policy_version
        if extra.srt_lane == "policy" and wanted not in (None, have):
            raise EngineUnavailable(
                engine=self.limits.engine,
                reason=f"srt_policy_version is {wanted}; the weights in use are version {have}",
            )

    def refuse_unless_started(self) -> None:
        """Raises EngineUnavailable while the engine starts, or is not healthy any more."""
        if not self._is_started:
            raise EngineUnavailable(engine=self.limits.engine, reason="starting")
        if not self._is_healthy:
            raise EngineUnavailable(engine=self.limits.engine, reason="the engine is not healthy")

    # -- life
    async def wait_started(self) -> None:
        """Return once the engine serves. Raises EngineUnavailable when it takes too long."""
        deadline = self._clock.monotonic() + self._settings.start_timeout_seconds
        while not await self.client.is_healthy():
            if self._clock.monotonic() > deadline:
                raise EngineUnavailable(
                    engine=self.limits.engine,
                    reason=f"not healthy after {self._settings.start_timeout_seconds:g} s",
                )
            await asyncio.sleep(HEALTH_INTERVAL_SECONDS)
        await self.weights.label_first()
        self._is_started = True

    async def watch(self) -> None:
        """Look after the engine that serves; while it is not healthy, nothing is served.

        vLLM's front end may outlive the process that decodes: it then answers nothing for ever.

        Raises:
            EngineUnavailable: it was not healthy `MAX_UNHEALTHY_LOOKS` times in a row.
        """
        num_unhealthy = 0
        while num_unhealthy < MAX_UNHEALTHY_LOOKS:
            await asyncio.sleep(WATCH_INTERVAL_SECONDS)
            self._is_healthy = await self.client.is_healthy()
            num_unhealthy = 0 if self._is_healthy else num_unhealthy + 1
        raise EngineUnavailable(engine=self.limits.engine, reason="not healthy any more")

    async def drain(self) -> None:
        """Refuse new work, abort run-ahead, let policy rollouts end a while, then abort them."""
        self._is_draining = True
        self.weights.stop_fetching()
        self._lanes.is_run_ahead_open = False
        self.flights.abort(self._lanes.evict_all())
        with suppress(TimeoutError):
            await asyncio.wait_for(self.flights.wait_idle(), self._settings.drain_seconds)
        await self.flights.abort_and_wait(self._lanes.policy_requests())

    async def close(self) -> None:
        """Let go of the engine, the trainer and the tree cache."""
        self.weights.stop_fetching()
        if self._prefetch is not None:
            await self._prefetch.close()
        await self.client.close()
