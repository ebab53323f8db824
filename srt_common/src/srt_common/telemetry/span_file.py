"""Reads span files back: for reports, for ``srt trace`` and for tests that follow one trace.

* A span file holds OTLP JSON lines, as `otlp_files` and every OTLP file exporter write them.
* What cannot be read, such as a line cut short by a kill, is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

AttributeValue: TypeAlias = str | bool | int | float | tuple["AttributeValue", ...]

_STATUS_ERROR = 2


class SpanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One finished span."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    parent_span_id: str | None
    """None: the root of its trace."""
    name: str
    service: str
    instance: str
    start_unix_nanos: int
    end_unix_nanos: int
    attributes: Mapping[str, AttributeValue]
    links: tuple[tuple[str, str], ...]
    """(trace id, span id) of spans this one refers to."""
    is_error: bool

    @property
    def duration_seconds(self) -> float:
        """From start to end."""
        return (self.end_unix_nanos - self.start_unix_nanos) / 1e9


def read_folder(folder: Path) -> list[SpanRecord]:
    """Spans of every span file in ``folder``, in order of their start."""
    paths = (path for path in folder.glob("*.jsonl") if not path.name.endswith(".metrics.jsonl"))
    spans = (span for path in sorted(paths) for span in read_spans(path))
    return sorted(spans, key=lambda span: span.start_unix_nanos)


def read_spans(path: Path) -> Iterator[SpanRecord]:
    """Spans of one file, in the order they were written."""
    with path.open("rb") as file:
        for line in file:
            try:
                export = _DECODER.decode(line)
            except msgspec.MsgspecError:
                continue
            for group in export.resource_spans:
                resource = _attributes(group.resource.attributes)
                for scope in group.scope_spans:
                    yield from (_record(span, resource) for span in scope.spans)


class _Struct(msgspec.Struct, rename="camel", frozen=True):
    """Part of OTLP/JSON; fields not named here are ignored."""


class _AnyValue(_Struct, frozen=True):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None
    array_value: _ArrayValue | None = None


class _ArrayValue(_Struct, frozen=True):
    values: list[_AnyValue] = []


class _KeyValue(_Struct, frozen=True):
    key: str
    value: _AnyValue = _AnyValue()


class _Link(_Struct, frozen=True):
    trace_id: str
    span_id: str


class _Status(_Struct, frozen=True):
    code: int = 0


class _Span(_Struct, frozen=True):
    trace_id: str
    span_id: str
    name: str
    start_time_unix_nano: int | str
    end_time_unix_nano: int | str
    parent_span_id: str = ""
    attributes: list[_KeyValue] = []
    links: list[_Link] = []
    status: _Status = _Status()


class _ScopeSpans(_Struct, frozen=True):
    spans: list[_Span] = []


class _Resource(_Struct, frozen=True):
    attributes: list[_KeyValue] = []


class _ResourceSpans(_Struct, frozen=True):
    resource: _Resource = _Resource()
    scope_spans: list[_ScopeSpans] = []


class _Export(_Struct, frozen=True):
    resource_spans: list[_ResourceSpans] = []


_DECODER = msgspec.json.Decoder(_Export)


def _record(span: _Span, resource: Mapping[str, AttributeValue]) -> SpanRecord:
    return SpanRecord(
        trace_id=span.trace_id.lower(),
        span_id=span.span_id.lower(),
        parent_span_id=span.parent_span_id.lower() or None,
        name=span.name,
        service=str(resource.get("service.name", "")),
        instance=str(resource.get("service.instance.id", "")),
        start_unix_nanos=int(span.start_time_unix_nano),
        end_unix_nanos=int(span.end_time_unix_nano),
        attributes=_attributes(span.attributes),
        links=tuple((link.trace_id.lower(), link.span_id.lower()) for link in span.links),
        is_error=span.status.code == _STATUS_ERROR,
    )


def _attributes(pairs: list[_KeyValue]) -> Mapping[str, AttributeValue]:
    values = ((pair.key, _plain(pair.value)) for pair in pairs)
    return {key: value for key, value in values if value is not None}


def _plain(value: _AnyValue) -> AttributeValue | None:
    """The one variant that is set; None for bytes and maps, which no span of ours has."""
    if value.int_value is not None:
        return int(value.int_value)
    if value.double_value is not None:
        return float(value.double_value)
    if value.array_value is not None:
        items = (_plain(item) for item in value.array_value.values)
        return tuple(item for item in items if item is not None)
    return value.string_value if value.string_value is not None else value.bool_value
