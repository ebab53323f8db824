"""Exporters that write OTLP as JSON lines: one ``{"resourceSpans": [...]}`` a batch; metrics alike.

* OTLP/JSON as specified: camelCase, integer enums, 64-bit integers as strings, ids in hexadecimal.
* A process killed while it writes leaves a line cut short; the next process starts a new one.
* A folder that cannot be written costs the telemetry, never the process.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_ID_FIELDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})


class SpanFileExporter(SpanExporter):
    """Appends batches of spans to one file."""

    def __init__(self, path: Path) -> None:
        self._lines = _LineFile(path)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write one line."""
        is_written = self._lines.append(_to_json(encode_spans(spans)))
        return SpanExportResult.SUCCESS if is_written else SpanExportResult.FAILURE


class MetricFileExporter(MetricExporter):
    """Appends readings of all metrics to one file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._lines = _LineFile(path)

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,  # noqa: ARG002 - the SDK's signature
        **_kwargs: object,
    ) -> MetricExportResult:
        """Write one line."""
        is_written = self._lines.append(_to_json(encode_metrics(metrics_data)))
        return MetricExportResult.SUCCESS if is_written else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002
        """Nothing is kept back."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_kwargs: object) -> None:
        """Nothing to close: every line opens the file anew."""


class _LineFile:
    """Lines at the end of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_first = True

    def append(self, line: str) -> bool:
        """Write ``line``; False when the file cannot be written."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                cut_short = self._is_first and _is_cut_short(file.fileno())
                file.write(("\n" if cut_short else "").encode() + line.encode() + b"\n")
        except OSError:
            return False
        self._is_first = False
        return True


def _is_cut_short(descriptor: int) -> bool:
    """True when a process before this one was ended in the middle of a line."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _to_json(message: Message) -> str:
    """OTLP/JSON; protobuf's own JSON differs in how it writes ids."""
    fields = MessageToDict(message, use_integers_for_enums=True)
    _ids_to_hex(fields)
    return json.dumps(fields, separators=(",", ":"))


def _ids_to_hex(value: Any) -> None:
    """Rewrite base64 ids in place, at any depth."""
    children = value.values() if isinstance(value, dict) else value
    for child in children:
        if isinstance(child, dict | list):
            _ids_to_hex(child)
    if isinstance(value, dict):
        for name in _ID_FIELDS & value.keys():
            value[name] = base64.b64decode(value[name]).hex()
