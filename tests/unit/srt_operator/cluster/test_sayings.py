"""What people are told: in order, beside the looks, and what is lost with it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from srt_common.cancellation import cancel_and_wait
from srt_operator.backends.kubernetes_api import KubernetesApi, KubernetesUnavailable
from srt_operator.cluster import sayings as sayings_module
from srt_operator.cluster.sayings import Sayings
from srt_operator.manifests.kubernetes.objects import Manifest
from support.replicas import ManualClock

POOL: Manifest = {
    "apiVersion": "srt-rl.dev/v1alpha1",
    "kind": "RolloutPool",
    "metadata": {"name": "pool", "namespace": "n", "uid": "u", "resourceVersion": "1"},
}


class SlowApi:
    """Takes events when it is let."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.failures = [KubernetesUnavailable(reason="it is away")]
        self.told: list[str] = []
        self.is_told = asyncio.Event()

    async def create(self, event: dict[str, Any]) -> None:
        await self.is_open.wait()
        if self.failures:
            raise self.failures.pop()
        self.told.append(event["message"])
        self.is_told.set()


async def test_no_look_waits_for_an_event_and_one_that_is_lost_stops_no_other() -> None:
    api = SlowApi()
    sayings = Sayings(cast(KubernetesApi, api), ManualClock(), "a")
    writing = asyncio.create_task(sayings.write_events())
    try:
        for message in ("lost", "first", "first", "second"):
            sayings.event(POOL, "Reason", message, is_bad=False)
        assert api.told == []
        api.is_open.set()
        async with asyncio.timeout(10):
            while len(api.told) < 2:
                api.is_told.clear()
                await api.is_told.wait()
        assert api.told == ["first", "second"]
    finally:
        await cancel_and_wait([writing])


async def test_more_events_than_may_wait_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sayings_module, "MAX_WAITING_EVENTS", 2)
    api = SlowApi()
    api.failures.clear()
    api.is_open.set()
    sayings = Sayings(cast(KubernetesApi, api), ManualClock(), "a")
    for message in ("first", "second", "third"):
        sayings.event(POOL, "Reason", message, is_bad=False)
    writing = asyncio.create_task(sayings.write_events())
    await asyncio.sleep(0.01)
    await cancel_and_wait([writing])
    assert api.told == ["first", "second"]
