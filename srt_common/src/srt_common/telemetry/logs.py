"""Logs as JSON lines on stderr, each with the trace it belongs to.

A message is constant; what varies goes into ``extra``. Neither ever holds prompt text or token ids.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from opentelemetry import trace

PACKAGES: Final = (
    "srt_common",
    "srt_trainer",
    "srt_rollout",
    "srt_tree_cache",
    "srt_runahead",
    "srt_operator",
)

_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, severity, logger, message, extras, trace and span id."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "severity": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(
            (name, value) for name, value in vars(record).items() if name not in _STANDARD_FIELDS
        )
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
            line["span_id"] = trace.format_span_id(span.span_id)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(service: str, level: str) -> None:
    """Send the suite's records from ``level`` on, and everyone's warnings, to stderr.

    A root logger that has handlers already belongs to somebody else and keeps them.
    """
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter(service))
        root.addHandler(handler)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level)
