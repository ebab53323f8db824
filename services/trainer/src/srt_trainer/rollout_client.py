"""Prompts out, finished rollouts back.

    waiting for a slot -> in flight --stop | length--> finished
            ^                 |
            +--- back-off ----+-- engine trouble: nothing is kept
            +-----------------+-- abort: the tokens so far are kept and continued

* A rollout is sampled by the given policy version only, and counted once however many attempts it
  takes.
* Every attempt has a request id of its own, never used by an earlier process of the same job
  either.
* Each rollout is a trace of its own, linked to the span that was current when it was asked for.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from opentelemetry import context, trace

from srt_common.clock import Clock
from srt_common.errors import EngineUnavailable
from srt_common.keys import PromptKey
from srt_common.messages.rollouts import (
    Choice,
    ExtraArgs,
    GenerateRequest,
    GenerateResponse,
    SamplingParams,
    SpeculativeDecodingMetrics,
)
from srt_common.telemetry import names
from srt_common.telemetry.instruments import RolloutInstruments
from srt_common.telemetry.propagation import TRACEPARENT, inject
from srt_trainer.datasets import Prompt
from srt_trainer.engine_client import EngineClient
from srt_trainer.engine_pool import EnginePool
from srt_trainer.environments.base import Environment
from srt_trainer.rollouts import Generation, Rollout, finished_rollout

FIRST_BACKOFF_SECONDS: Final = 0.1
MAX_BACKOFF_SECONDS: Final = 5.0
FINISHED: Final = ("stop", "length")

_LOGGER = logging.getLogger(__name__)
_TRACER = trace.get_tracer("srt_trainer")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """How every rollout of the job is sampled."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop_token_ids: tuple[int, ...]
    timeout_seconds: float
    timeout_seconds_per_token: float
    max_attempts: int


@dataclass(frozen=True, slots=True)
class RolloutTask:
    """One rollout to be sampled."""

    rollout_id: str
    group_id: str
    prompt: Prompt
    key: PromptKey


@dataclass(slots=True)
class _Progress:
    """What the attempts at one rollout have given so far."""

    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    num_attempts: int = 0
    num_failures: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_request_steps: int = 0

    def add(self, response: GenerateResponse) -> None:
        """Keep what an attempt sampled, finished or aborted."""
        choice = response.choices[0]
        token_ids = choice.token_ids or []
        self.token_ids += token_ids
        self.log_probs += _log_probs(choice)
        drafts = response.metrics and response.metrics.speculative_decoding
        drafts = drafts or SpeculativeDecodingMetrics()
        self.num_draft_tokens += drafts.num_draft_tokens
        self.num_accepted_tokens += drafts.num_accepted_draft_tokens
        self.num_request_steps += drafts.num_request_steps(len(token_ids))

    def generation(self, finish_reason: str) -> Generation:
        """The finished response."""
        return Generation(
            token_ids=self.token_ids,
            log_probs=self.log_probs,
            finish_reason=finish_reason,
            num_draft_tokens=self.num_draft_tokens,
            num_accepted_tokens=self.num_accepted_tokens,
            num_request_steps=self.num_request_steps,
            num_retries=self.num_attempts - 1,
        )


class RolloutClient:
    """Samples rollouts on a pool of engines. Belongs to one event loop."""

    def __init__(
        self,
        pool: EnginePool,
        environment: Environment,
        plan: SamplingPlan,
        *,
        instruments: RolloutInstruments,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._environment = environment
        self._plan = plan
        self._clock = clock
        self._process = secrets.token_hex(4)
        self._instruments = instruments

    async def sample(self, tasks: Sequence[RolloutTask], *, policy_version: int) -> list[Rollout]:
        """Sample all tasks at once; the rollouts in the order of the tasks.

        Raises:
            EngineUnavailable: a rollout failed too often.
            EngineRefused: an engine said that a request is wrong.
        """
        link = trace.Link(trace.get_current_span().get_span_context())
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(self._roll_out(task, policy_version, link)) for task in tasks
            ]
        return [rollout.result() for rollout in running]

    async def _roll_out(self, task: RolloutTask, policy_version: int, link: trace.Link) -> Rollout:
        with _TRACER.start_as_current_span(
            names.SPAN_ROLLOUT_GENERATE,
            context=context.Context(),
            kind=trace.SpanKind.CLIENT,
            links=[link],
            attributes={
                names.ATTR_ROLLOUT_ID: task.rollout_id,
                names.ATTR_GROUP_ID: task.group_id,
                names.ATTR_POLICY_VERSION: policy_version,
                names.ATTR_LANE: "policy",
                names.ATTR_INPUT_TOKENS: len(task.prompt.token_ids),
            },
            record_exception=False,
        ) as span:
            started = self._clock.monotonic()

            async def sample(token_ids: Sequence[int]) -> Generation:
                return await self._sample(task, token_ids, policy_version)

            generation = await self._environment.roll_out(task.prompt, sample)
            span.set_attributes(
                {
                    names.ATTR_OUTPUT_TOKENS: len(generation.token_ids),
                    names.ATTR_FINISH_REASONS: [generation.finish_reason],
                    names.ATTR_DRAFT_TOKENS: generation.num_draft_tokens,
                    names.ATTR_ACCEPTED_TOKENS: generation.num_accepted_tokens,
                    names.ATTR_DRAFT_STEPS: generation.num_request_steps,
                }
            )
            self._instruments.rollout_duration.record(
                self._clock.monotonic() - started, {names.ATTR_LANE: "policy"}
            )
        return finished_rollout(
            generation,
            rollout_id=task.rollout_id,
            prompt_index=task.prompt.index,
            prompt_token_ids=task.prompt.token_ids,
        )

    async def _sample(
        self, task: RolloutTask, token_ids: Sequence[int], policy_version: int
    ) -> Generation:
        """Have one response sampled, through as many attempts as it takes."""
        progress = _Progress()
        while True:
            request, headers = self._request(task, token_ids, progress, policy_version)
            try:
                async with self._pool.slot(task.key) as engine:
                    response = await self._attempt(engine, request, headers, policy_version)
            except EngineUnavailable:
                progress.num_failures += 1
                if progress.num_failures >= self._plan.max_attempts:
                    raise
                await asyncio.sleep(_backoff_seconds(progress.num_failures))
                continue
            progress.add(response)
            reason = response.choices[0].finish_reason
            if reason in FINISHED:
                return progress.generation(reason)
            if len(progress.token_ids) >= self._plan.max_tokens:
                return progress.generation("length")

    def _request(
        self,
        task: RolloutTask,
        token_ids: Sequence[int],
        progress: _Progress,
        policy_version: int,
    ) -> tuple[GenerateRequest, dict[str, str]]:
        """The next attempt: what is left to sample after what earlier attempts gave."""
        headers: dict[str, str] = {}
        inject(headers)
        plan, given = self._plan, progress.token_ids
        progress.num_attempts += 1
        return GenerateRequest(
            request_id=f"{task.rollout_id}#{self._process}-{progress.num_attempts}",
            token_ids=[*token_ids, *given],
            sampling_params=SamplingParams(
                max_tokens=plan.max_tokens - len(given),
                temperature=plan.temperature,
                top_p=plan.top_p,
                top_k=plan.top_k,
                logprobs=0,
                stop_token_ids=list(plan.stop_token_ids),
                detokenize=False,
                extra_args=ExtraArgs(
                    srt_rollout_id=task.rollout_id,
                    srt_group_id=task.group_id,
                    srt_policy_version=policy_version,
                    srt_num_prompt_tokens=len(token_ids) if given else None,
                    traceparent=headers.get(TRACEPARENT),
                ),
            ),
        ), headers

    async def _attempt(
        self,
        engine: EngineClient,
        request: GenerateRequest,
        headers: dict[str, str],
        policy_version: int,
    ) -> GenerateResponse:
        trace.get_current_span().set_attribute(names.ATTR_ENGINE_NAME, engine.name)
        plan = self._plan
        response = await engine.generate(
            request,
            headers=headers,
            timeout_seconds=plan.timeout_seconds
            + plan.timeout_seconds_per_token * request.sampling_params.max_tokens,
        )
        if fault := _fault(response, policy_version):
            raise EngineUnavailable(engine=engine.name, reason=fault)
        return response


def _fault(response: GenerateResponse, policy_version: int) -> str | None:
    """Why an answer cannot be used, or None."""
    if len(response.choices) != 1:
        return f"it gave {len(response.choices)} responses to a request for one"
    choice = response.choices[0]
    token_ids = choice.token_ids or []
    if len(_log_probs(choice)) != len(token_ids):
        return "it gave another number of log-probabilities than of tokens"
    if choice.finish_reason not in (*FINISHED, "abort"):
        return f"it finished with {choice.finish_reason}"
    if not token_ids:
        return "it gave no token"
    allowed = {str(policy_version), *(["default"] if policy_version == 0 else [])}
    stale = {span.version for span in choice.weight_versions or []} - allowed
    return f"it sampled with weights {sorted(stale)}" if stale else None


def _log_probs(choice: Choice) -> list[float]:
    content = choice.logprobs.content if choice.logprobs else None
    return [token.logprob for token in content or []]


def _backoff_seconds(num_failures: int) -> float:
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** (num_failures - 1), MAX_BACKOFF_SECONDS)
