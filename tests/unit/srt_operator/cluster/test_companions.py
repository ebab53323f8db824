"""What goes on beside a job ends with it, whatever it waits for."""

from __future__ import annotations

import asyncio

import pytest

from srt_common.clock import SystemClock
from srt_operator.cluster.companions import Companion
from srt_operator.runahead.assembly import Place
from srt_operator.runahead.controller import Controller
from support.jobs import make_job


def place() -> Place:
    """Where nobody answers."""
    return Place(
        job_id="u",
        job_name="sums",
        engines={"sums-rollout-0": "http://127.0.0.1:9"},
        caches=[],
        cache_token=str,
        server_url="redis://127.0.0.1:9",
        broker_url="redis://127.0.0.1:9",
        telemetry=None,
    )


async def test_it_ends_although_a_cancellation_is_swallowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began, num_cancelled = asyncio.Event(), 0

    async def run_on(_controller: Controller) -> None:
        nonlocal num_cancelled
        while num_cancelled < 2:
            try:
                began.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                num_cancelled += 1

    monkeypatch.setattr(Controller, "run", run_on)
    companion = Companion(
        make_job().spec,
        place(),
        token=str,
        since=0.0,
        clock=SystemClock(),
        on_reading=lambda: None,
    )
    async with asyncio.timeout(10.0):
        await began.wait()
        await companion.stop()
    assert not companion.is_running
    assert num_cancelled == 2
