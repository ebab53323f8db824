"""In-memory telemetry for tests: what was reported is read back as plain values."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer


class RecordedTelemetry:
    """Providers of one test, installed nowhere."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._tracers = TracerProvider(shutdown_on_exit=False)
        self._tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)

    @property
    def tracer(self) -> Tracer:
        """Records every span."""
        return self._tracers.get_tracer("tests")

    @property
    def meter(self) -> Meter:
        """Records every measurement."""
        return self._meters.get_meter("tests")

    def spans(self, name: str) -> list[ReadableSpan]:
        """Finished spans of this name, in order of their end."""
        return [span for span in self._spans.get_finished_spans() if span.name == name]

    def value(self, metric: tuple[str, str], attributes: Mapping[str, str] | None = None) -> float:
        """Sum of a metric's points with these attributes; of a histogram, their number."""
        name, unit = metric
        total = 0.0
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for found in scope.metrics:
                    if found.name != name:
                        continue
                    assert found.unit == unit
                    for point in found.data.data_points:
                        if attributes is None or dict(point.attributes or {}) == dict(attributes):
                            total += _value(point)
        return total


def _value(point: object) -> float:
    if isinstance(point, HistogramDataPoint):
        return point.count
    assert isinstance(point, NumberDataPoint)
    return point.value
