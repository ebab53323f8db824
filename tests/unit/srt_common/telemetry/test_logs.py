"""A log line is one JSON object with message, extras and, inside of a span, its trace."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from srt_common.telemetry.logs import JsonFormatter
from support.otel import RecordedTelemetry


def record(**changes: object) -> logging.LogRecord:
    """Not by the process's record factory, which vLLM replaces when a test imports it."""
    made = logging.LogRecord("srt_common.x", logging.WARNING, "x.py", 1, "%d left", (3,), None)
    vars(made).update({"created": 1.5} | changes)
    return made


def line(of: logging.LogRecord) -> dict[str, object]:
    text = JsonFormatter("srt-test").format(of)
    assert "\n" not in text
    parsed: dict[str, object] = json.loads(text)
    return parsed


def test_a_line_says_when_who_how_bad_and_what() -> None:
    assert line(record()) == {
        "time": "1970-01-01T00:00:01.500+00:00",
        "severity": "WARNING",
        "service": "srt-test",
        "logger": "srt_common.x",
        "message": "3 left",
    }


def test_extras_become_fields_whatever_their_type() -> None:
    written = line(record(shard=4, folder=Path("a")))
    assert (written["shard"], written["folder"]) == (4, "a")


def test_a_line_inside_of_a_span_names_its_trace() -> None:
    with RecordedTelemetry().tracer.start_as_current_span("srt.step") as span:
        written = line(record())
    assert written["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert written["span_id"] == f"{span.get_span_context().span_id:016x}"


def test_an_exception_stays_on_its_line() -> None:
    try:
        raise KeyError("reason")
    except KeyError:
        written = line(record(exc_info=sys.exc_info()))
    assert "KeyError: 'reason'" in str(written["exception"])
