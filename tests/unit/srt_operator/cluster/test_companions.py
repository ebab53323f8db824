"""What goes on beside a job ends with it, whatever it waits for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from srt_common.clock import SystemClock
from srt_operator.cluster.companions import Companion, Companions
from srt_operator.event_loops import own_loop
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


def accompany(on_reading: Callable[[], object]) -> Companion:
    return Companion(
        make_job().spec,
        place(),
        token=str,
        since=0.0,
        clock=SystemClock(),
        on_reading=on_reading,
    )


@pytest.mark.parametrize(
    ("edit", "stays"),
    [
        ({"spec__algorithm__steps": 99}, True),
        ({"spec__activeDeadlineSeconds": 3600}, True),
        ({"spec__backoffLimit": 9}, True),
        ({"spec__runAhead__reserveSlots": 3}, False),
        ({"spec__runAhead__bubble__learnSteps": 7}, False),
        ({"spec__rollout__template__drafter__enabled": False}, False),
    ],
    ids=str,
)
def test_only_an_edit_of_what_it_uses_replaces_it(edit: dict[str, Any], stays: bool) -> None:
    companion = accompany(lambda: None)
    assert companion.suits(make_job(**edit).spec, place()) is stays


def test_other_engines_or_another_cache_replace_it() -> None:
    companion = accompany(lambda: None)
    assert not companion.suits(make_job().spec, replace(place(), engines={}))
    assert not companion.suits(make_job().spec, replace(place(), caches=["http://127.0.0.1:9"]))


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
    companion = accompany(lambda: None)
    companion.start()
    async with asyncio.timeout(10.0):
        await began.wait()
        await companion.stop()
    assert not companion.is_running
    assert num_cancelled == 2


async def test_what_companions_do_holds_up_no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over, has_read = threading.Event(), asyncio.Event()

    async def ask_for_long(_controller: Controller) -> None:
        is_over.wait(10.0)

    monkeypatch.setattr(Controller, "run", ask_for_long)
    looks, key = asyncio.get_running_loop(), ("SRTJob", "n", "sums")
    async with own_loop("companions") as theirs:
        companions = Companions(theirs)
        try:
            began = time.monotonic()
            companion = accompany(lambda: looks.call_soon_threadsafe(has_read.set))
            companions.begin(key, companion)
            assert companion.is_running
            await asyncio.sleep(0.01)
            assert time.monotonic() - began < 5.0
        finally:
            is_over.set()
        async with asyncio.timeout(10.0):
            await has_read.wait()
            assert companions.engines_of("n", "sums") == {}
            await companions.end(key)
    assert companions.engines_of("n", "sums") is None
