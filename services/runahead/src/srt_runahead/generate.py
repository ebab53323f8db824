"""One run-ahead chunk from its task to its outcome. Knows no Celery.

    prepare -> claim -> sample -> completed
       |         |        |-> aborted    bubble closed, time up, policy work came; tokens kept
       |         |        +-> failed     a dead letter
       |         +----------> duplicate  another task has it
       +--------------------> expired    no bubble of this epoch, too late, prompt gone, no slot

* Never more than the chunk: a sample goes on in later chunks from what `Coordination` keeps of it.
* The engine's drafter inserts what is sampled as it is sampled, partial or not; nothing is sent to
  the trees from here, and nothing ever to a trainer (promise 6).
* Safe to run twice: the same task claims again, and its tokens are one more sequence of the tree.
* A coordination server that does not answer counts as a closed bubble.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from srt_common.clock import Clock
from srt_common.coordination import Coordination, UnfinishedSample, WindowPrompt
from srt_common.errors import (
    CoordinationUnavailable,
    EngineBusy,
    EngineError,
    EngineUnavailable,
)
from srt_common.keys import PromptKey
from srt_common.messages.rollouts import (
    ExtraArgs,
    GenerateRequest,
    GenerateResponse,
    SamplingParams,
)
from srt_common.messages.runahead import RunaheadJob, RunaheadOutcome, RunaheadResult
from srt_runahead.bubble_watch import BubbleWatch
from srt_runahead.gateway_client import GatewayClient

_LOG = logging.getLogger(__name__)

RETRY_DELAY_SECONDS: Final = 0.5
ABORT_ANSWER_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A chunk that may be sampled."""

    prompt: WindowPrompt
    prompt_token_ids: list[int]
    earlier_token_ids: tuple[int, ...]
    """Of this sample's earlier chunks."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class _Sampled:
    """What the engine answered."""

    token_ids: list[int]
    finish_reason: str
    abort_seconds: float | None


class ChunkRunner:
    """Runs the chunks of one engine. Belongs to one event loop."""

    def __init__(
        self,
        coordination: Coordination,
        gateway: GatewayClient,
        watch: BubbleWatch,
        *,
        chunk_timeout_seconds: float,
        clock: Clock,
    ) -> None:
        self._coordination = coordination
        self._gateway = gateway
        self._watch = watch
        self._chunk_timeout_seconds = chunk_timeout_seconds
        self._clock = clock
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Abort what runs and start nothing more."""
        self._stopping.set()

    async def run(self, job: RunaheadJob, task: str) -> RunaheadOutcome:
        """Do one chunk, and add its outcome to the job's totals."""
        started_at = self._clock.monotonic()
        try:
            outcome = await self._run(job, task)
        except CoordinationUnavailable as error:
            _LOG.warning("chunk given up", extra={"error_type": type(error).__name__})
            outcome = _without_tokens("expired")
        seconds = self._clock.monotonic() - started_at
        outcome = msgspec.structs.replace(outcome, duration_seconds=seconds)
        with suppress(CoordinationUnavailable):
            await self._coordination.record_outcome(outcome)
        return outcome

    async def _run(self, job: RunaheadJob, task: str) -> RunaheadOutcome:
        is_late = self._clock.unix() > job.deadline_at_unix or self._stopping.is_set()
        if is_late or not await self._watch.is_open(job.epoch):
            return _without_tokens("expired")
        prepared = await self._prepare(job)
        if isinstance(prepared, str):
            return _without_tokens(prepared)
        if not await self._coordination.claim_sample(*_sample_of(job), task, chunk=job.chunk):
            return _without_tokens("duplicate")
        try:
            sampled = await self._sample_with_retry(job, prepared)
        except EngineBusy:
            await self._coordination.release_sample(*_sample_of(job), task, chunk=job.chunk)
            return _without_tokens("expired")
        except EngineError as error:
            return await self._bury(job, task, error)
        return await self._keep(job, task, prepared, sampled)

    async def _prepare(self, job: RunaheadJob) -> _Prepared | RunaheadResult:
        """What to sample, or why not."""
        key = PromptKey(bytes.fromhex(job.prompt_key))
        window = {prompt.prompt_key: prompt for prompt in await self._coordination.window()}
        prompt, tokens = window.get(key), await self._coordination.prompt_tokens(key)
        if prompt is None or tokens is None:
            return "expired"
        earlier: tuple[int, ...] = ()
        if job.chunk > 0:
            unfinished = await self._coordination.unfinished(*_sample_of(job))
            if unfinished is None:
                return "expired"
            if unfinished.chunk != job.chunk:
                return "duplicate"
            earlier = unfinished.token_ids
        max_tokens = min(job.chunk_tokens, prompt.max_tokens - len(earlier))
        return _Prepared(prompt, tokens, earlier, max_tokens) if max_tokens > 0 else "expired"

    async def _sample_with_retry(self, job: RunaheadJob, prepared: _Prepared) -> _Sampled:
        try:
            return await self._sample(job, prepared)
        except EngineUnavailable:
            await asyncio.sleep(RETRY_DELAY_SECONDS)
            if self._stopping.is_set() or not await self._watch.is_open(job.epoch):
                raise
            return await self._sample(job, prepared)

    async def _sample(self, job: RunaheadJob, prepared: _Prepared) -> _Sampled:
        """Sample until the chunk ends, its bubble closes, its time is up or the worker stops."""
        request = _request(job, prepared)
        call = asyncio.create_task(self._gateway.generate(request))
        closing = asyncio.create_task(self._watch.wait_closed(job.epoch))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait(
                {call, closing, stopping},
                timeout=self._chunk_timeout_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if call.done():
                return _sampled(call.result(), abort_seconds=None)
            answer = await self._abort(request.request_id, call)
            open_until = closing.result() if closing.done() else None
        finally:
            for task in (call, closing, stopping):
                task.cancel()
        seconds = None if open_until is None else self._clock.monotonic() - open_until
        return _sampled(answer, abort_seconds=seconds)

    async def _abort(
        self, request_id: str, call: asyncio.Task[GenerateResponse]
    ) -> GenerateResponse | None:
        """The answer with the tokens so far; None when there is none, and the connection closes."""
        with suppress(EngineError):
            await self._gateway.abort(request_id)
        await asyncio.wait({call}, timeout=ABORT_ANSWER_SECONDS)
        return call.result() if call.done() else None

    async def _keep(
        self, job: RunaheadJob, task: str, prepared: _Prepared, sampled: _Sampled
    ) -> RunaheadOutcome:
        """Note how far the sample has come."""
        token_ids = prepared.earlier_token_ids + tuple(sampled.token_ids)
        is_aborted = sampled.finish_reason == "abort"
        is_finished = not is_aborted and (
            sampled.finish_reason == "stop" or len(token_ids) >= prepared.prompt.max_tokens
        )
        with suppress(CoordinationUnavailable):  # the tokens are in the trees all the same
            if is_finished:
                await self._coordination.drop_unfinished(*_sample_of(job))
            elif sampled.token_ids:
                await self._coordination.put_unfinished(
                    UnfinishedSample(*_sample_of(job), chunk=job.chunk + 1, token_ids=token_ids)
                )
            else:
                await self._coordination.release_sample(*_sample_of(job), task, chunk=job.chunk)
        return RunaheadOutcome(
            result="aborted" if is_aborted else "completed",
            num_tokens=len(sampled.token_ids),
            is_finished=is_finished,
            duration_seconds=0.0,
            abort_seconds=sampled.abort_seconds,
        )

    async def _bury(self, job: RunaheadJob, task: str, error: EngineError) -> RunaheadOutcome:
        """Keep a dead letter; another task may try the chunk."""
        _LOG.warning("chunk failed", extra={"error_type": type(error).__name__})
        letter = {"task": task, "job": msgspec.to_builtins(job), "reason": str(error)}
        await self._coordination.bury(msgspec.json.encode(letter))
        await self._coordination.release_sample(*_sample_of(job), task, chunk=job.chunk)
        return _without_tokens("failed")


def _sample_of(job: RunaheadJob) -> tuple[str, int, int]:
    return job.prompt_key, job.sample, job.policy_version


def _request(job: RunaheadJob, prepared: _Prepared) -> GenerateRequest:
    """A fresh id for each attempt; the sample's earlier tokens are context, not prompt."""
    prompt = prepared.prompt
    sample = f"runahead:{job.prompt_key}:{job.policy_version}:{job.sample}"
    return GenerateRequest(
        request_id=f"{sample}:{job.chunk}#{secrets.token_hex(4)}",
        token_ids=prepared.prompt_token_ids + list(prepared.earlier_token_ids),
        sampling_params=SamplingParams(
            max_tokens=prepared.max_tokens,
            temperature=prompt.temperature,
            top_p=prompt.top_p,
            top_k=prompt.top_k,
            stop_token_ids=list(prompt.stop_token_ids) or None,
            detokenize=False,
            extra_args=ExtraArgs(
                srt_rollout_id=sample,
                srt_policy_version=job.policy_version,
                srt_lane="run_ahead",
                srt_num_prompt_tokens=len(prepared.prompt_token_ids),
            ),
        ),
    )


def _sampled(answer: GenerateResponse | None, *, abort_seconds: float | None) -> _Sampled:
    """An engine that gave no answer has aborted without tokens."""
    if answer is None or not answer.choices:
        return _Sampled([], "abort", abort_seconds)
    choice = answer.choices[0]
    return _Sampled(choice.token_ids or [], choice.finish_reason or "abort", abort_seconds)


def _without_tokens(result: RunaheadResult) -> RunaheadOutcome:
    return RunaheadOutcome(result=result, num_tokens=0, is_finished=False, duration_seconds=0.0)
