"""Trace context in and out of plain dicts: HTTP headers, Celery headers, request arguments.

W3C ``traceparent`` only: baggage of others is neither read nor passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT: Final = "traceparent"

_PROPAGATOR = TraceContextTextMapPropagator()


def inject(carrier: dict[str, str], context: Context | None = None) -> None:
    """Put the current (or the given) span's context into ``carrier``; without a span, nothing."""
    _PROPAGATOR.inject(carrier, context=context)


def extract(carrier: Mapping[str, str]) -> Context:
    """The context in ``carrier``, for ``start_span(context=...)``; empty when there is none."""
    return _PROPAGATOR.extract(carrier, context=Context())


def current_traceparent() -> str | None:
    """``traceparent`` of the current span, or None outside of one."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get(TRACEPARENT)


def context_of(traceparent: str | None) -> Context:
    """What `extract` gives for a single header; a malformed one counts as none."""
    return extract({} if traceparent is None else {TRACEPARENT: traceparent})
