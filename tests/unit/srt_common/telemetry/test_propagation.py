"""Trace context travels through plain dicts, and what is malformed counts as none."""

from __future__ import annotations

import pytest
from opentelemetry import baggage, trace

from srt_common.telemetry.propagation import context_of, current_traceparent, extract, inject
from support.otel import RecordedTelemetry


def test_a_span_started_elsewhere_continues_the_trace() -> None:
    tracer = RecordedTelemetry().tracer
    headers: dict[str, str] = {}
    with tracer.start_as_current_span("rollout.generate") as client:
        inject(headers)
        assert current_traceparent() == headers["traceparent"]
    server = tracer.start_span("gateway.generate", context=extract(headers))
    assert server.get_span_context().trace_id == client.get_span_context().trace_id
    also = tracer.start_span("engine.rollout", context=context_of(headers["traceparent"]))
    assert also.get_span_context().trace_id == client.get_span_context().trace_id


def test_without_a_span_nothing_is_put_in() -> None:
    headers: dict[str, str] = {}
    inject(headers)
    assert headers == {}
    assert current_traceparent() is None


@pytest.mark.parametrize("traceparent", [None, "", "00-zz-1-01", "x" * 10_000, "00-" + "0" * 60])
def test_a_malformed_context_counts_as_none(traceparent: str | None) -> None:
    context = context_of(traceparent)
    assert not trace.get_current_span(context).get_span_context().is_valid


def test_the_current_span_is_no_parent_of_what_came_from_elsewhere() -> None:
    tracer = RecordedTelemetry().tracer
    with tracer.start_as_current_span("srt.step") as here:
        span = tracer.start_span("gateway.generate", context=extract({}))
    assert span.get_span_context().trace_id != here.get_span_context().trace_id


def test_baggage_of_others_is_not_read() -> None:
    assert baggage.get_all(extract({"baggage": "user=somebody"})) == {}
