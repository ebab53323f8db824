"""Stands in for the trainer's `EngineClient`: an engine that does what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from srt_common.errors import EngineUnavailable
from srt_common.messages.rollouts import (
    Choice,
    ChoiceLogprobs,
    EngineLoad,
    GenerateRequest,
    GenerateResponse,
    RequestMetrics,
    SpeculativeDecodingMetrics,
    TokenLogprob,
    WeightUpdate,
    WeightVersionSpan,
)

Answer = GenerateResponse | Exception


def answer(
    token_ids: Sequence[int] = (7, 8),
    *,
    finish_reason: str = "stop",
    version: str | None = None,
    num_logprobs: int | None = None,
    drafts: SpeculativeDecodingMetrics | None = None,
) -> GenerateResponse:
    spans = [WeightVersionSpan(version, 0, len(token_ids))] if version else None
    content = [TokenLogprob(token, -float(token)) for token in token_ids][:num_logprobs]
    choice = Choice(list(token_ids), finish_reason, ChoiceLogprobs(content), spans)
    return GenerateResponse([choice], metrics=RequestMetrics(drafts) if drafts else None)


class ScriptedEngine:
    """Stands in for `EngineClient`: gives its answers in turn, then a good one for ever."""

    def __init__(self, name: str, answers: Sequence[Answer] = ()) -> None:
        self.name = name
        self.url = f"http://{name}"
        self.answers = list(answers)
        self.requests: list[GenerateRequest] = []
        self.headers: list[dict[str, str]] = []
        self.timeouts: list[float] = []
        self.policy_version = 0
        self.weights_url = ""
        self.loads: list[WeightUpdate] = []
        self.weight_errors: list[Exception] = []
        self.load_errors: list[Exception] = []
        self.is_draining = False
        self.loaded = asyncio.Event()
        self.is_full = asyncio.Event()
        self.fill = 0
        """Requests in flight at which `is_full` is set."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.num_in_flight = 0
        self.most_in_flight = 0

    async def generate(
        self, request: GenerateRequest, *, headers: dict[str, str], timeout_seconds: float
    ) -> GenerateResponse:
        self.requests.append(request)
        self.headers.append(headers)
        self.timeouts.append(timeout_seconds)
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        if self.num_in_flight == self.fill:
            self.is_full.set()
        try:
            await self.gate.wait()
        finally:
            self.num_in_flight -= 1
        result = self.answers.pop(0) if self.answers else answer()
        if isinstance(result, Exception):
            raise result
        return result

    async def update_weights(self, update: WeightUpdate) -> None:
        if self.weight_errors:
            raise self.weight_errors.pop(0)
        self.loads.append(update)
        self.loaded.set()
        self.policy_version, self.weights_url = update.policy_version, update.url

    async def load(self) -> EngineLoad:
        if self.load_errors:
            raise self.load_errors.pop(0)
        return EngineLoad(
            engine=self.name,
            policy_version=self.policy_version,
            max_num_seqs=8,
            reserve_slots=0,
            num_running_policy=0,
            num_waiting_policy=0,
            num_running_run_ahead=0,
            is_draining=self.is_draining,
            weights_url=self.weights_url,
        )


def unavailable(name: str = "engine-0") -> EngineUnavailable:
    return EngineUnavailable(engine=name, reason="scripted")
