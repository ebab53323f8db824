"""The lease has one holder at a time: a decision in a function, and candidates on a played API."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from srt_common.clock import SystemClock
from srt_operator import election
from srt_operator.backends.kubernetes_api import (
    KubernetesConflict,
    KubernetesRefused,
    KubernetesUnavailable,
)
from srt_operator.election import DURATION_SECONDS, Election, Seen, decide


class PlayedLeases:
    """One lease with a version, as an API server keeps it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.is_away = False
        self._version = 0

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert (kind, namespace, name) == ("Lease", "n", election.LEASE)
        self._answer()
        return copy.deepcopy(self.lease)

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self._answer()
        if self.lease is not None:
            raise KubernetesConflict(status=409, reason="it is there")
        return self._store(manifest)

    async def replace(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self._answer()
        assert self.lease is not None
        if manifest["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise KubernetesConflict(status=409, reason="it changed")
        return self._store(manifest)

    def _answer(self) -> None:
        if self.is_away:
            raise KubernetesUnavailable(reason="away")

    def _store(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        self.lease = copy.deepcopy(manifest)
        self.lease["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(self.lease)


class PlayedClock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return self.now


def lease(holder: str) -> dict[str, Any]:
    return {"spec": {"holderIdentity": holder, "renewTime": "t"}}


@pytest.mark.parametrize(
    ("held", "seen_for", "what"),
    [
        (None, None, "create"),
        (lease("me"), None, "renew"),
        (lease(""), None, "take"),
        (lease("other"), None, "wait"),
        (lease("other"), DURATION_SECONDS - 0.1, "wait"),
        (lease("other"), DURATION_SECONDS, "take"),
    ],
)
def test_a_lease_is_taken_only_when_nobody_renews_it(
    held: dict[str, Any] | None, seen_for: float | None, what: str
) -> None:
    seen = None if seen_for is None else Seen("other", "t", 1000.0 - seen_for)
    assert decide(held, seen, identity="me", now=1000.0) == what


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "RETRY_SECONDS", 0.001)


def candidate(api: PlayedLeases, clock: PlayedClock, name: str) -> Election:
    return Election(api, namespace="n", identity=name, clock=clock)


@pytest.mark.usefixtures("quick")
async def test_one_of_two_wins_and_the_other_takes_over_with_a_higher_epoch() -> None:
    api, clock = PlayedLeases(), PlayedClock()
    first, second = candidate(api, clock, "a"), candidate(api, clock, "b")
    await first.win()
    waiting = asyncio.create_task(second.win())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    clock.now += DURATION_SECONDS
    await asyncio.wait_for(waiting, 1.0)
    assert (first.epoch, second.epoch) == (1, 2)
    await asyncio.wait_for(first.hold(), 1.0)


@pytest.mark.usefixtures("quick")
async def test_a_renewed_lease_is_never_taken() -> None:
    api, clock = PlayedLeases(), PlayedClock()
    first, second = candidate(api, clock, "a"), candidate(api, clock, "b")
    await first.win()
    holding = asyncio.create_task(first.hold())
    waiting = asyncio.create_task(second.win())
    for _ in range(20):
        clock.now += DURATION_SECONDS / 3
        await asyncio.sleep(0.02)
    assert not waiting.done()
    assert not holding.done()
    holding.cancel()
    waiting.cancel()
    await asyncio.gather(holding, waiting, return_exceptions=True)


@pytest.mark.usefixtures("quick")
async def test_a_holder_that_cannot_renew_gives_up_before_another_may_take_over() -> None:
    api, clock = PlayedLeases(), PlayedClock()
    first = candidate(api, clock, "a")
    await first.win()
    holding = asyncio.create_task(first.hold())
    api.is_away = True
    clock.now += election.RENEW_WITHIN_SECONDS - 0.1
    await asyncio.sleep(0.02)
    assert not holding.done()
    clock.now += 0.2
    await asyncio.wait_for(holding, 1.0)
    assert election.RENEW_WITHIN_SECONDS < election.STOP_WITHIN_SECONDS < DURATION_SECONDS


@pytest.mark.usefixtures("quick")
async def test_a_holder_whose_calls_hang_gives_up_in_time_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging(PlayedLeases):
        async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
            if self.is_away:
                await asyncio.sleep(60)
            return await super().get(kind, namespace, name)

    api, clock = Hanging(), SystemClock()
    first = Election(api, namespace="n", identity="a", clock=clock)
    await first.win()
    assert first.is_held
    monkeypatch.setattr(election, "STOP_WITHIN_SECONDS", 0.05)
    monkeypatch.setattr(election, "DURATION_SECONDS", 0.1)
    api.is_away = True
    await asyncio.wait_for(first.hold(), 2.0)
    await asyncio.sleep(0.1)
    assert not first.is_held


@pytest.mark.usefixtures("quick")
async def test_a_replica_says_that_its_lease_is_refused_until_it_is_not() -> None:
    class Refusing(PlayedLeases):
        def _answer(self) -> None:
            if self.is_away:
                raise KubernetesRefused(status=403, reason="leases is forbidden")

    api = Refusing()
    first = candidate(api, PlayedClock(), "a")
    api.is_away = True
    winning = asyncio.create_task(first.win())
    await asyncio.sleep(0.02)
    assert first.fault() == "the lease is refused: leases is forbidden"
    api.is_away = False
    await asyncio.wait_for(winning, 1.0)
    assert first.fault() is None


@pytest.mark.usefixtures("quick")
async def test_a_released_lease_is_taken_at_once() -> None:
    api, clock = PlayedLeases(), PlayedClock()
    first, second = candidate(api, clock, "a"), candidate(api, clock, "b")
    await first.win()
    await first.release()
    await asyncio.wait_for(second.win(), 1.0)
    assert second.epoch == 2
