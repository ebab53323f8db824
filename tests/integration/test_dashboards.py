"""Every query of the dashboard and the alerts returns data: a real run through the collector of the
compose file into Debian's Prometheus, beside DCGM's series replayed from a recorded sample.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.trace import NoOpTracer

from srt_common.clock import SystemClock
from srt_operator.runahead.bubble_log import BubbleLog
from srt_operator.signals.prometheus import Prometheus
from support import collector, prometheus
from support.observability import FILES, measured, queries
from support.tiny_model import make_tiny_model

pytestmark = [pytest.mark.processes, pytest.mark.vllm, pytest.mark.timeout(1500)]

ENGINE = "sums-rollout-0"
JOB: dict[str, Any] = {
    "apiVersion": "srt-rl.dev/v1alpha1",
    "kind": "SRTJob",
    "metadata": {"name": "sums"},
    "spec": {
        "dataset": {"uri": "reasoning-gym://chain_sum?seed=1&size=4&max_terms=2&max_digits=1"},
        "sampling": {"maxPromptTokens": 128, "maxResponseTokens": 40},
        "algorithm": {"type": "GRPO", "steps": 9, "promptsPerStep": 2, "rolloutsPerPrompt": 4},
        "optimizer": {"maxTokensPerMicroBatch": 2048},
        "rollout": {
            "template": {"engine": {"maxNumSeqs": 6, "maxModelLen": 256, "kvCacheMemory": "32Mi"}}
        },
        "treeCache": {"template": {"shards": 16, "retention": {"maxBytes": "64Mi"}}},
        "runAhead": {
            "reserveSlots": 1,
            "chunkTokens": 16,
            "bubble": {
                "openAfterSeconds": 0.1,
                "minRemainingSeconds": 0.1,
                "cooldownSeconds": 0.1,
                "learnSteps": 1,
            },
        },
    },
}


async def run_job(folder: Path, otlp_url: str) -> None:
    """`srt run`, its processes telling the collector what they count."""
    JOB["spec"]["model"] = {"uri": f"file://{make_tiny_model(folder / 'model', seed=3)}"}
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    command = [sys.executable, "-c", "from srt_operator.cli import main; main()", "run"]
    told = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp_url,
        "SRT_TELEMETRY_METRIC_INTERVAL_SECONDS": "2",
    }
    with (folder / "srt-run.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            str(folder / "job.yaml"),
            "--run-dir",
            str(folder / "run"),
            stdout=log,
            stderr=log,
            env=os.environ | told,
        )
        try:
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
    assert status == 0, (folder / "srt-run.log").read_text()[-3000:]


async def show_gpu(prometheus_url: str, otlp_url: str) -> None:
    """What the operator does with DCGM's series: read them from Prometheus and report them."""
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{otlp_url}/v1/metrics"))
    meters = MeterProvider(metric_readers=[reader])
    log = BubbleLog(lambda _line: None, tracer=NoOpTracer(), meter=meters.get_meter("test"))
    async with httpx.AsyncClient() as client:
        source = Prometheus(
            client, prometheus_url, namespace="team", engines=[ENGINE], clock=SystemClock()
        )
        await source.ask()
        found = await source.read()
    log.gpu(ENGINE, source=source.name, utilization=found[ENGINE].utilization)
    await asyncio.to_thread(meters.shutdown)


async def has_data(server: prometheus.RunningPrometheus, query: str, started_at: float) -> bool:
    """Whether any point of the run has a number."""
    results = await server.points(query, start=started_at, end=time.time(), step=2)
    return any(not math.isnan(float(value)) for one in results for _, value in one["values"])


async def test_every_query_of_dashboard_and_alerts_returns_data(tmp_path: Path) -> None:
    prometheus.find("prometheus")
    collector.find()
    started_at = time.time()
    async with AsyncExitStack() as stack:
        gathered = await stack.enter_async_context(collector.collecting(tmp_path))
        replayed = await stack.enter_async_context(
            prometheus.exporting(lambda: prometheus.dcgm_of(ENGINE, namespace="team"))
        )
        scrape: Mapping[str, Any] = {
            "srt": prometheus.target(gathered.scraped_at),
            "dcgm-replayed": prometheus.target(replayed, honor_labels=True),
        }
        rules = {"rule_files": [str(FILES / "alerts.yaml")]}
        server = await stack.enter_async_context(prometheus.running(tmp_path, scrape, **rules))
        await run_job(tmp_path, gathered.otlp_url)
        await show_gpu(server.url, gathered.otlp_url)
        await asyncio.sleep(5.0)
        silent = [
            where
            for where, query in queries().items()
            if not await has_data(server, measured(query, rate_interval="30s"), started_at)
        ]
    assert silent == []
