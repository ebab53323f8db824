"""A process that only calls `configure` reports everything; its telemetry never holds it up."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srt_common.telemetry.setup import CLOSE_SECONDS, TelemetrySettings, build
from srt_common.telemetry.span_file import read_folder

CONFIGURED_PROCESS = """
import logging
from opentelemetry import metrics, trace
from srt_common.telemetry.setup import configure
assert configure("srt-test", instance="7") is configure("other")
with trace.get_tracer("tests").start_as_current_span("srt.step"):
    logging.getLogger("srt_common.tests").info("step done", extra={"num_tokens": 3})
logging.getLogger("a.library").info("not shown")
metrics.get_meter("tests").create_counter("srt.draft.tokens").add(1)
"""


def test_a_process_that_only_configures_leaves_spans_metrics_and_logs_at_its_end(
    tmp_path: Path,
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", CONFIGURED_PROCESS],
        env={"SRT_TELEMETRY_DIR": str(tmp_path)},
        capture_output=True,
        check=True,
        timeout=25,
    )
    [span] = read_folder(tmp_path)
    assert (span.service, span.instance, span.name) == ("srt-test", "7", "srt.step")
    assert "srt.draft.tokens" in (tmp_path / "srt-test-7.metrics.jsonl").read_text()
    [line] = process.stderr.decode().splitlines()
    record = json.loads(line)
    assert record["message"] == "step done"
    assert record["num_tokens"] == 3
    assert (record["trace_id"], record["span_id"]) == (span.trace_id, span.span_id)


def test_an_endpoint_that_never_answers_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{port}")
        telemetry = build("srt-test", instance="0", settings=TelemetrySettings())
        assert telemetry.tracer_provider is not None
        with telemetry.tracer_provider.get_tracer("tests").start_as_current_span("srt.step"):
            pass
        started = time.monotonic()
        telemetry.close()
        assert time.monotonic() - started < CLOSE_SECONDS + 0.5
