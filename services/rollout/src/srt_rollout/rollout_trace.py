"""One span and a few counters for each rollout that passes the gateway.

* Flushed once, when the rollout has ended. Never text or tokens.
* The gateway's own trace context goes on to the engine, so that the drafter's span joins the trace.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec
from opentelemetry import trace
from opentelemetry.metrics import Meter
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from srt_common.errors import SRTError
from srt_common.messages.rollouts import ExtraArgs, RequestMetrics
from srt_common.telemetry import names
from srt_common.telemetry.instruments import DraftInstruments, RolloutInstruments
from srt_common.telemetry.propagation import context_of, inject


class _Choice(msgspec.Struct, frozen=True):
    token_ids: list[int] | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    """The part of vLLM's answer that is counted."""

    choices: list[_Choice] = []
    metrics: RequestMetrics | None = None


_DECODE = msgspec.json.Decoder(_Answer)


class RolloutTrace:
    """A rollout's open span."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.answer: bytes | None = None
        """vLLM's answer, once there is one."""

    @property
    def headers(self) -> dict[str, str]:
        """Trace context to pass on; empty when nothing is traced."""
        carrier: dict[str, str] = {}
        inject(carrier, trace.set_span_in_context(self._span))
        return carrier


class RolloutTraces:
    """Makes the spans and counters of one engine's gateway."""

    def __init__(self, engine: str, *, tracer: Tracer, meter: Meter) -> None:
        self._engine = engine
        self._tracer = tracer
        self._rollouts = RolloutInstruments.of(meter)
        self._drafts = DraftInstruments.of(meter)

    @contextmanager
    def rollout(
        self, extra: ExtraArgs, *, headers: Mapping[str, str], num_prompt_tokens: int
    ) -> Iterator[RolloutTrace]:
        """The span of one rollout, continuing the caller's trace; set ``answer`` inside."""
        attributes: dict[str, str | int] = {
            names.ATTR_ENGINE_NAME: self._engine,
            names.ATTR_LANE: extra.srt_lane,
            names.ATTR_ROLLOUT_ID: extra.srt_rollout_id,
            names.ATTR_INPUT_TOKENS: num_prompt_tokens,
        }
        if extra.srt_policy_version is not None:
            attributes[names.ATTR_POLICY_VERSION] = extra.srt_policy_version
        if extra.srt_group_id is not None:
            attributes[names.ATTR_GROUP_ID] = extra.srt_group_id
        started = time.monotonic()
        with self._tracer.start_as_current_span(
            names.SPAN_GATEWAY_GENERATE,
            context=context_of(headers.get("traceparent") or extra.traceparent),
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            rollout = RolloutTrace(span)
            try:
                yield rollout
            except SRTError as error:  # its message may repeat what vLLM said of a prompt
                span.set_attribute(names.ATTR_ERROR_TYPE, type(error).__name__)
                span.set_status(StatusCode.ERROR)
                raise
            if rollout.answer is not None:
                self._count(span, rollout.answer, extra.srt_lane, time.monotonic() - started)

    def _count(self, span: trace.Span, answer: bytes, lane: str, seconds: float) -> None:
        decoded = _DECODE.decode(answer)
        labels = {names.ATTR_LANE: lane}
        self._rollouts.rollout_duration.record(seconds, labels)
        num_tokens = sum(len(choice.token_ids or ()) for choice in decoded.choices)
        span.set_attribute(names.ATTR_OUTPUT_TOKENS, num_tokens)
        span.set_attribute(
            names.ATTR_FINISH_REASONS, [c.finish_reason or "none" for c in decoded.choices]
        )
        speculation = decoded.metrics.speculative_decoding if decoded.metrics else None
        if speculation is None:
            return
        span.set_attribute(names.ATTR_DRAFT_TOKENS, speculation.num_draft_tokens)
        span.set_attribute(names.ATTR_ACCEPTED_TOKENS, speculation.num_accepted_draft_tokens)
        num_steps = speculation.num_request_steps(num_tokens)
        span.set_attribute(names.ATTR_DRAFT_STEPS, num_steps)
        self._drafts.draft_tokens.add(speculation.num_draft_tokens, labels)
        self._drafts.accepted_tokens.add(speculation.num_accepted_draft_tokens, labels)
        self._drafts.steps.add(num_steps, labels)
