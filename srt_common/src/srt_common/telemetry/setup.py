"""Telemetry of one process, from ``OTEL_*`` and ``SRT_TELEMETRY_*`` variables.

* ``OTEL_EXPORTER_OTLP_ENDPOINT`` set: OTLP over HTTP. Else a folder given: OTLP JSON lines,
  ``<folder>/<service>-<instance>.jsonl`` and ``.metrics.jsonl``. Else nothing is recorded.
* Trouble with telemetry never fails or delays what is observed: queues are bounded and drop,
  exports run in threads with a time limit, and closing waits `CLOSE_SECONDS` at most.
* Everybody else uses the OpenTelemetry API alone; here and in `otlp_files` is the SDK.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import set_global_textmap
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes
from pydantic import Field

from srt_common import __version__
from srt_common.settings import ServiceSettings
from srt_common.telemetry import names
from srt_common.telemetry.logs import log_to_stderr
from srt_common.telemetry.otlp_files import MetricFileExporter, SpanFileExporter

EXPORT_TIMEOUT_SECONDS: Final = 3
CLOSE_SECONDS: Final = 2.0
SPAN_DELAY_SECONDS: Final = 1.0
MAX_QUEUED_SPANS: Final = 2048

_ENDPOINT_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class TelemetrySettings(ServiceSettings, env_prefix="SRT_TELEMETRY_"):
    """What ``OTEL_*`` variables do not say."""

    dir: Path | None = None
    """Folder for files, used when no OTLP endpoint is set."""
    job_name: str = ""
    """Put on everything as ``srt.job.name``; empty: left out."""
    trace_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of traces kept. Spans of optimizer steps are always kept."""
    metric_interval_seconds: Annotated[float, Field(gt=0, le=300)] = 10.0
    """Time between two readings of the metrics."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Of the suite's own loggers; others show from WARNING on."""


class Telemetry:
    """Providers of one process; `close` it at the end, or leave that to the interpreter's exit."""

    def __init__(
        self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
    ) -> None:
        self.tracer_provider = tracer_provider
        self.meter_provider = meter_provider

    def close(self) -> None:
        """Export what is left and stop, within `CLOSE_SECONDS`. Idempotent."""
        closing = threading.Thread(target=self._shut_down, name="srt-telemetry-close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def _shut_down(self) -> None:
        tracers, meters = self.tracer_provider, self.meter_provider
        self.tracer_provider = self.meter_provider = None
        if tracers is not None:
            tracers.shutdown()
        if meters is not None:
            meters.shutdown()


class StepSampler(Sampler):
    """Keeps every optimizer step, and of the rest what its parent keeps or else a share."""

    def __init__(self, ratio: float) -> None:
        self._rest = ParentBased(TraceIdRatioBased(ratio))

    def should_sample(  # noqa: PLR0913, PLR0917 - the SDK's signature
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """The SDK asks once for every span."""
        sampler = ALWAYS_ON if name == names.SPAN_STEP else self._rest
        return sampler.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        """For the SDK's own logs."""
        return "StepSampler"


_CONFIGURED: dict[str, Telemetry] = {}
_CONFIGURED_LOCK = threading.Lock()


def configure(
    service: str, *, instance: str = "", settings: TelemetrySettings | None = None
) -> Telemetry:
    """Set this process's providers and its logging; a later call returns what the first one made.

    Args:
        service: ``service.name``, for instance ``srt-tree-cache``.
        instance: ``service.instance.id``, stable over restarts; empty: the process id.
        settings: None: from the environment.

    Raises:
        ConfigurationError: a wrong ``SRT_TELEMETRY_*`` variable.
    """
    with _CONFIGURED_LOCK:
        if "process" not in _CONFIGURED:
            settings = settings or TelemetrySettings.from_environment()
            telemetry = build(service, instance=instance, settings=settings)
            log_to_stderr(service, settings.log_level)
            _install(telemetry)
            _CONFIGURED["process"] = telemetry
        return _CONFIGURED["process"]


def build(service: str, *, instance: str, settings: TelemetrySettings) -> Telemetry:
    """Providers for `configure`, installed nowhere."""
    instance = instance or str(os.getpid())
    exporters = _exporters(service, instance, settings.dir)
    if exporters is None:
        return Telemetry(None, None)
    spans, readings = exporters
    resource = _resource(service, instance, settings.job_name)
    tracers = TracerProvider(
        sampler=StepSampler(settings.trace_sample_ratio), resource=resource, shutdown_on_exit=False
    )
    tracers.add_span_processor(
        BatchSpanProcessor(
            spans,
            max_queue_size=MAX_QUEUED_SPANS,
            schedule_delay_millis=SPAN_DELAY_SECONDS * 1000,
            export_timeout_millis=EXPORT_TIMEOUT_SECONDS * 1000,
        )
    )
    reader = PeriodicExportingMetricReader(
        readings,
        export_interval_millis=settings.metric_interval_seconds * 1000,
        export_timeout_millis=EXPORT_TIMEOUT_SECONDS * 1000,
    )
    meters = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
    return Telemetry(tracers, meters)


def _install(telemetry: Telemetry) -> None:
    set_global_textmap(TraceContextTextMapPropagator())
    if telemetry.tracer_provider is not None:
        trace.set_tracer_provider(telemetry.tracer_provider)
    if telemetry.meter_provider is not None:
        metrics.set_meter_provider(telemetry.meter_provider)
    atexit.register(telemetry.close)


def _exporters(
    service: str, instance: str, folder: Path | None
) -> tuple[SpanExporter, MetricExporter] | None:
    """Where spans and metrics go, or None when nowhere."""
    if any(os.environ.get(name) for name in _ENDPOINT_VARIABLES):
        return (
            OTLPSpanExporter(timeout=EXPORT_TIMEOUT_SECONDS),
            OTLPMetricExporter(timeout=EXPORT_TIMEOUT_SECONDS),
        )
    if folder is None:
        return None
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", f"{service}-{instance}")
    return (
        SpanFileExporter(folder / f"{stem}.jsonl"),
        MetricFileExporter(folder / f"{stem}.metrics.jsonl"),
    )


def _resource(service: str, instance: str, job_name: str) -> Resource:
    """Who reports; ``OTEL_RESOURCE_ATTRIBUTES`` adds to it."""
    attributes = {
        "service.name": service,
        "service.namespace": "srt",
        "service.version": __version__,
        "service.instance.id": instance,
    }
    if job_name:
        attributes[names.ATTR_JOB_NAME] = job_name
    return Resource.create(attributes)
