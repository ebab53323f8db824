"""Which engines there are: a list that stays, or whatever a Service's name resolves to now."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from srt_trainer import engine_sources
from srt_trainer.engine_sources import behind_service, listed
from srt_trainer.settings import EngineEndpoint

Answer = Sequence[str] | OSError


class Names:
    """Stands in for the resolver: gives its answers in turn."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked.append((host, port))
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return [(0, 0, 0, "", (address, port)) for address in answer]


async def seen(monkeypatch: pytest.MonkeyPatch, names: Names, number: int) -> list[list[str]]:
    """URLs of the first ``number`` sets of engines."""
    monkeypatch.setattr(engine_sources, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names.getaddrinfo)
    sets: list[list[str]] = []
    async for endpoints in behind_service("http://tiny-rollout:8000"):
        sets.append([endpoint.url for endpoint in endpoints])
        if len(sets) == number:
            break
    return sets


async def test_a_list_is_given_once() -> None:
    endpoints = [EngineEndpoint(name="engine-0", url="http://h:1")]
    assert [given async for given in listed(endpoints)] == [endpoints]


async def test_every_address_is_an_engine_once_and_scaling_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names(["10.0.0.2", "10.0.0.10", "10.0.0.2"], ["10.0.0.10", "10.0.0.11", "10.0.0.12"])
    assert await seen(monkeypatch, names, 2) == [
        ["http://10.0.0.2:8000", "http://10.0.0.10:8000"],
        ["http://10.0.0.10:8000", "http://10.0.0.11:8000", "http://10.0.0.12:8000"],
    ]
    assert names.asked[0] == ("tiny-rollout", 8000)


async def test_a_name_that_does_not_resolve_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away = socket.gaierror(-2, "Name or service not known")
    names = Names(away, away, ["10.0.0.1"], away, ["10.0.0.1"])
    assert await seen(monkeypatch, names, 2) == [["http://10.0.0.1:8000"]] * 2
    assert [record.message for record in caplog.records] == [
        "the engines' service has no address"
    ] * 2


async def test_a_pod_of_two_address_families_is_one_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names(["fd00::5", "10.0.0.1"], ["fd00::5"])
    assert await seen(monkeypatch, names, 2) == [
        ["http://10.0.0.1:8000"],
        ["http://[fd00::5]:8000"],
    ]


async def test_a_real_name_is_resolved() -> None:
    async for endpoints in behind_service("http://localhost:8000"):
        assert [endpoint.url for endpoint in endpoints] == ["http://127.0.0.1:8000"]
        break
