"""GPU utilisation through a real Prometheus that scrapes DCGM's series, replayed from a sample."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from srt_common.clock import SystemClock
from srt_operator.runahead.gpu_votes import MAX_GPU_AGE_SECONDS, Vote, vote
from srt_operator.signals.base import GPUReading
from srt_operator.signals.prometheus import WINDOW_SECONDS, Prometheus
from support.prometheus import dcgm_of, exporting, find, running, target

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

BUSY, IDLE, UNKNOWN = "sums-rollout-0", "sums-rollout-1", "sums-rollout-2"


def exposition() -> str:
    """Two engines of the job, and a pod of the same name elsewhere."""
    return "\n".join(
        (
            dcgm_of(BUSY, namespace="team", scale=2.0),
            dcgm_of(IDLE, namespace="team", scale=0.0),
            dcgm_of(UNKNOWN, namespace="other"),
        )
    )


def scraped_as(address: str, *, honor_labels: bool) -> dict[str, Any]:
    """DCGM's exporter as service discovery finds it: a pod with labels of its own."""
    own = {"pod": "dcgm-exporter-x7x2p", "namespace": "gpu-operator"}
    return {
        "dcgm": {
            "static_configs": [{"targets": [address], "labels": own}],
            "honor_labels": honor_labels,
        }
    }


Readings = Mapping[str, GPUReading]


async def until(source: Prometheus, holds: Callable[[Readings], bool], seconds: float) -> Readings:
    """Ask until what is known is as wanted."""
    async with asyncio.timeout(seconds):
        while True:
            await source.ask()
            if holds(found := await source.read()):
                return found
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("honor_labels", [True, False])
async def test_the_gpus_of_a_job_s_engines_are_found_by_their_pods(
    tmp_path: Path, honor_labels: bool
) -> None:
    find("prometheus")
    clock = SystemClock()
    async with httpx.AsyncClient() as client, exporting(exposition) as address:
        scrape = scraped_as(address, honor_labels=honor_labels)
        async with running(tmp_path, scrape) as server:
            engines = [BUSY, IDLE, UNKNOWN]
            source = Prometheus(
                client, server.url + "/", namespace="team", engines=engines, clock=clock
            )
            found = await until(source, lambda found: len(found) == 2, 60.0)
    assert found.keys() == {BUSY, IDLE}
    assert found[BUSY].utilization == pytest.approx(0.88)
    assert found[IDLE].utilization == 0.0
    now = clock.monotonic()
    votes = {name: vote(one, now=now, idle_since=now - 60.0) for name, one in found.items()}
    assert votes == {BUSY: Vote.BUSY, IDLE: Vote.IDLE}


async def test_an_exporter_and_a_prometheus_that_die_never_read_as_idle(tmp_path: Path) -> None:
    find("prometheus")
    clock = SystemClock()
    async with httpx.AsyncClient() as client, AsyncExitStack() as stack:
        stays = await stack.enter_async_context(exporting(exposition))
        dying = AsyncExitStack()
        goes = await dying.enter_async_context(
            exporting(lambda: dcgm_of("gone-0", namespace="team", scale=0.0))
        )
        scrape = {
            name: target(address, honor_labels=True)
            for name, address in (("dcgm", stays), ("dying", goes))
        }
        server = await stack.enter_async_context(running(tmp_path, scrape))
        source = Prometheus(
            client, server.url, namespace="team", engines=[IDLE, "gone-0"], clock=clock
        )
        await until(source, lambda found: len(found) == 2, 60.0)
        await dying.aclose()
        last = await until(source, lambda found: len(found) == 1, WINDOW_SECONDS + 30.0)
        assert last.keys() == {IDLE}
        server.process.kill()
        await source.ask()
        assert await source.read() == last
        later = clock.monotonic() + MAX_GPU_AGE_SECONDS
        assert vote(last[IDLE], now=later, idle_since=0.0) is Vote.ABSTAINS
