"""Every query of the dashboard and the alerts returns data: a real run through the collector of the
compose file into Debian's Prometheus, beside DCGM's series replayed from a recorded sample.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.trace import NoOpTracer

from srt_common.clock import SystemClock
from srt_common.telemetry.names import METRIC_GPU_UTILIZATION
from srt_operator.runahead.bubble_log import BubbleLog
from srt_operator.signals.prometheus import Prometheus
from support import collector, prometheus
from support.observability import FILES, measured, queries

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1500)]

REGISTRY = Path(__file__).parents[2] / "docs" / "telemetry"
GPU_UTILIZATION = METRIC_GPU_UTILIZATION[0]
SECONDS_OF_SPEECH = 10
SCRAPED_WITHIN_SECONDS = 60.0

ENGINE = "sums-rollout-0"
# 8 rollouts in 16 slots: from the first that ends on, the engine counts as nearly empty, so that
# bubbles open on fast machines too, where the last rollout alone is over in less than .1 seconds;
# and prompts enough that run-ahead has some to write for, and is aborted, in every step.
JOB: dict[str, Any] = {
    "apiVersion": "srt-rl.dev/v1alpha1",
    "kind": "SRTJob",
    "metadata": {"name": "sums"},
    "spec": {
        "dataset": {"uri": "reasoning-gym://chain_sum?seed=1&size=16&max_terms=2&max_digits=1"},
        "sampling": {"maxPromptTokens": 128, "maxResponseTokens": 120},
        "algorithm": {"type": "GRPO", "steps": 9, "promptsPerStep": 2, "rolloutsPerPrompt": 4},
        "optimizer": {"maxTokensPerMicroBatch": 2048},
        "rollout": {
            "template": {"engine": {"maxNumSeqs": 16, "maxModelLen": 256, "kvCacheMemory": "32Mi"}}
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
    from support.tiny_model import make_tiny_model  # torch: the other test does without

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


def meters_to(site: Site) -> MeterProvider:
    """Export there at `force_flush`."""
    exporter = OTLPMetricExporter(f"{site.otlp_url}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
    return MeterProvider(metric_readers=[reader], shutdown_on_exit=False)


async def show_gpu(site: Site) -> None:
    """What the operator does with DCGM's series: read them from Prometheus and report them."""
    meters = meters_to(site)
    log = BubbleLog(lambda _line: None, tracer=NoOpTracer(), meter=meters.get_meter("operator"))
    async with httpx.AsyncClient() as client:
        source = Prometheus(
            client, site.server.url, namespace="team", engines=[ENGINE], clock=SystemClock()
        )
        await source.ask()
        found = await source.read()
    log.gpu(ENGINE, source=source.name, utilization=found[ENGINE].utilization)
    await asyncio.to_thread(meters.force_flush)
    await asyncio.to_thread(meters.shutdown)


def speak(meter: Meter) -> None:
    """Say one of everything that the registry lists, under every value of its attributes."""
    attributes = {one["name"]: one for one in registry("attributes")}
    for metric in registry("metrics"):
        names = metric["attributes"]
        values = [attributes[name].get("values", ["example"]) for name in names]
        for chosen in itertools.product(*values):
            say(meter, metric, dict(zip(names, chosen, strict=True)))


def say(meter: Meter, metric: dict[str, Any], attributes: dict[str, str]) -> None:
    name, unit = metric["name"], metric["unit"]
    if metric["instrument"] == "counter":
        meter.create_counter(name, unit=unit).add(1, attributes)
    elif metric["instrument"] == "histogram":
        meter.create_histogram(name, unit=unit).record(0.1, attributes)
    elif name != GPU_UTILIZATION:
        meter.create_gauge(name, unit=unit).set(1.0, attributes)


def registry(file: str) -> list[dict[str, Any]]:
    """`docs/telemetry`."""
    entries: list[dict[str, Any]] = yaml.safe_load((REGISTRY / f"{file}.yaml").read_text())
    return entries


@dataclass(frozen=True, slots=True)
class Site:
    """A collector, and Prometheus that scrapes it and what stands for DCGM's exporter."""

    otlp_url: str
    server: prometheus.RunningPrometheus

    async def silent(self, started_at: float) -> list[str]:
        """Where a query is that has no number since then, nor gets one while a scrape is due."""
        left = queries()
        deadline = time.monotonic() + SCRAPED_WITHIN_SECONDS
        while left and time.monotonic() < deadline:
            for where, query in list(left.items()):
                if await self._has_data(measured(query, rate_interval="30s"), started_at):
                    del left[where]
            await asyncio.sleep(1.0)
        return list(left)

    async def _has_data(self, query: str, started_at: float) -> bool:
        results = await self.server.points(query, start=started_at, end=time.time(), step=2)
        return any(not math.isnan(float(value)) for one in results for _, value in one["values"])


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    prometheus.find("prometheus")
    collector.find()
    async with AsyncExitStack() as stack:
        gathered = await stack.enter_async_context(collector.collecting(tmp_path))
        replayed = await stack.enter_async_context(
            prometheus.exporting(lambda: prometheus.dcgm_of(ENGINE, namespace="team"))
        )
        scrape = {
            "srt": prometheus.target(gathered.scraped_at),
            "dcgm-replayed": prometheus.target(replayed, honor_labels=True),
        }
        rules = [str(FILES / "alerts.yaml")]
        running = prometheus.running(tmp_path, scrape, rule_files=rules)
        yield Site(gathered.otlp_url, await stack.enter_async_context(running))


@pytest.mark.vllm
async def test_a_real_run_answers_every_query(site: Site, tmp_path: Path) -> None:
    started_at = time.time()
    await run_job(tmp_path, site.otlp_url)
    await show_gpu(site)
    assert await site.silent(started_at) == []


async def test_the_registry_answers_every_query(site: Site) -> None:
    """Names, units and labels become what the queries say: every metric of the registry speaks."""
    started_at = time.time()
    meters = meters_to(site)
    for _ in range(SECONDS_OF_SPEECH):
        speak(meters.get_meter("registry"))
        await asyncio.to_thread(meters.force_flush)
        await asyncio.sleep(1.0)
    await asyncio.to_thread(meters.shutdown)
    await show_gpu(site)
    assert await site.silent(started_at) == []
