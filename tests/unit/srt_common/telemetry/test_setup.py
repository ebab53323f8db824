"""Telemetry set-up: files a report can read back, sampling, and trouble that fails nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.trace import Link
from opentelemetry.util.types import AnyValue

from srt_common.errors import ConfigurationError
from srt_common.telemetry import names
from srt_common.telemetry.setup import Telemetry, TelemetrySettings, build
from srt_common.telemetry.span_file import SpanRecord, read_folder, read_spans


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)


def to_files(folder: Path, *, ratio: float = 1.0, instance: str = "0") -> Telemetry:
    settings = TelemetrySettings(dir=folder, trace_sample_ratio=ratio, job_name="tiny")
    return build("srt-test", instance=instance, settings=settings)


def tracer_of(telemetry: Telemetry) -> trace.Tracer:
    assert telemetry.tracer_provider is not None
    return telemetry.tracer_provider.get_tracer("tests")


def test_spans_come_back_from_the_file_as_they_were_made(tmp_path: Path) -> None:
    telemetry = to_files(tmp_path)
    tracer = tracer_of(telemetry)
    attributes: dict[str, AnyValue] = {
        "text": "a",
        "flag": True,
        "whole": 2**53,
        "part": 0.5,
        "list": ["x", "y"],
    }
    with (
        tracer.start_as_current_span("srt.step", attributes=attributes) as step,
        tracer.start_as_current_span("train"),
    ):
        pass
    context = step.get_span_context()
    with (
        pytest.raises(KeyError),
        tracer.start_as_current_span("rollout.generate", links=[Link(context)]),
    ):
        raise KeyError("reason")
    telemetry.close()

    spans = {span.name: span for span in read_folder(tmp_path)}
    root, child, linked = spans["srt.step"], spans["train"], spans["rollout.generate"]
    assert root.trace_id == trace.format_trace_id(context.trace_id)
    assert root.span_id == trace.format_span_id(context.span_id)
    assert root.parent_span_id is None
    assert root.attributes == attributes | {"list": ("x", "y")}
    assert (child.trace_id, child.parent_span_id) == (root.trace_id, root.span_id)
    assert linked.links == ((root.trace_id, root.span_id),)
    assert linked.trace_id != root.trace_id
    assert [span.is_error for span in (root, child, linked)] == [False, False, True]
    assert {(span.service, span.instance) for span in spans.values()} == {("srt-test", "0")}
    assert 0 <= child.duration_seconds <= root.duration_seconds < 1


def test_the_file_is_otlp_json_with_the_resource_of_the_process(tmp_path: Path) -> None:
    telemetry = to_files(tmp_path, instance="engine/0")
    with tracer_of(telemetry).start_as_current_span("srt.step"):
        pass
    telemetry.close()
    [line] = (tmp_path / "srt-test-engine_0.jsonl").read_text().splitlines()
    [group] = json.loads(line)["resourceSpans"]
    resource = {pair["key"]: pair["value"] for pair in group["resource"]["attributes"]}
    assert resource["service.instance.id"] == {"stringValue": "engine/0"}
    assert resource["service.namespace"] == {"stringValue": "srt"}
    assert resource[names.ATTR_JOB_NAME] == {"stringValue": "tiny"}
    [span] = group["scopeSpans"][0]["spans"]
    assert len(bytes.fromhex(span["traceId"])) == 16
    assert len(bytes.fromhex(span["spanId"])) == 8
    assert isinstance(span["startTimeUnixNano"], str)
    assert span["kind"] == 1


def test_metrics_go_to_their_own_file_with_hexadecimal_exemplars(tmp_path: Path) -> None:
    telemetry = to_files(tmp_path)
    assert telemetry.meter_provider is not None
    meter = telemetry.meter_provider.get_meter("tests")
    with tracer_of(telemetry).start_as_current_span("srt.step") as span:
        meter.create_counter("srt.draft.tokens", unit="{token}").add(3)
    telemetry.close()
    [line] = (tmp_path / "srt-test-0.metrics.jsonl").read_text().splitlines()
    [metric] = json.loads(line)["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    assert (metric["name"], metric["unit"]) == ("srt.draft.tokens", "{token}")
    [point] = metric["sum"]["dataPoints"]
    assert point["asInt"] == "3"
    [exemplar] = point["exemplars"]
    assert exemplar["traceId"] == trace.format_trace_id(span.get_span_context().trace_id)


def test_a_restarted_process_goes_on_in_the_same_file_after_a_line_cut_short(
    tmp_path: Path,
) -> None:
    path = tmp_path / "srt-test-0.jsonl"
    path.write_text('{"resourceSpans":[{"resou')
    for name in ("first", "second"):
        telemetry = to_files(tmp_path)
        with tracer_of(telemetry).start_as_current_span(name):
            pass
        telemetry.close()
    assert [span.name for span in read_spans(path)] == ["first", "second"]


def test_lines_that_are_no_spans_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n\xff\n{"resourceMetrics":[]}\n[]\n{"resourceSpans":[{}]}\n')
    assert list(read_spans(path)) == []


def names_of(spans: list[SpanRecord]) -> list[str]:
    return [span.name for span in spans]


def test_steps_and_what_lies_under_them_are_kept_whatever_the_ratio(tmp_path: Path) -> None:
    telemetry = to_files(tmp_path, ratio=0.0)
    tracer = tracer_of(telemetry)
    with tracer.start_as_current_span(names.SPAN_STEP), tracer.start_as_current_span("train"):
        pass
    with tracer.start_as_current_span(names.SPAN_ROLLOUT_GENERATE):
        pass
    telemetry.close()
    assert names_of(read_folder(tmp_path)) == [names.SPAN_STEP, "train"]


def test_the_ratio_decides_about_other_traces(tmp_path: Path) -> None:
    telemetry = to_files(tmp_path, ratio=0.5)
    tracer = tracer_of(telemetry)
    for _ in range(400):
        tracer.start_span(names.SPAN_ROLLOUT_GENERATE).end()
    telemetry.close()
    assert 120 < len(read_folder(tmp_path)) < 280


def test_without_folder_and_endpoint_nothing_is_set_up() -> None:
    telemetry = build("srt-test", instance="0", settings=TelemetrySettings())
    assert telemetry.tracer_provider is None
    assert telemetry.meter_provider is None
    telemetry.close()


def test_a_folder_that_cannot_be_written_costs_only_the_telemetry(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    telemetry = to_files(blocked)
    with tracer_of(telemetry).start_as_current_span("srt.step"):
        pass
    telemetry.close()
    assert blocked.read_text() == "in the way"


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    telemetry = to_files(tmp_path)
    telemetry.close()
    telemetry.close()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SRT_TELEMETRY_TRACE_SAMPLE_RATIO", "1.5"),
        ("SRT_TELEMETRY_LOG_LEVEL", "LOUD"),
        ("SRT_TELEMETRY_FOLDER", "x"),
    ],
)
def test_a_wrong_variable_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable):
        TelemetrySettings.from_environment()
