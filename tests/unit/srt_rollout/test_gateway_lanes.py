"""Promise 5 through the gateway: run-ahead yields to policy rollouts and keeps its partial tokens.

Also aborts by id, clients that go away, and the drain.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.gateway import TOKEN, Gateway


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with Gateway.started(tmp_path) as started:
        yield started


async def running(gateway: Gateway, *names: str, lane: str = "policy") -> list[Answer]:
    """Rollouts that have reached the engine, oldest first."""
    calls = []
    for name in names:
        calls.append(asyncio.create_task(gateway.generate(name, lane=lane)))
        await gateway.vllm.wait_running(name)
    return calls


Answer = asyncio.Task[httpx.Response]


def finish_reason(response: httpx.Response) -> str:
    return str(response.json()["choices"][0]["finish_reason"])


async def counts(gateway: Gateway) -> tuple[int, int, int]:
    load = (await gateway.http.get("/load")).json()
    return (
        load["num_running_policy"],
        load["num_waiting_policy"],
        load["num_running_run_ahead"],
    )


async def finish_all(gateway: Gateway, names: list[str], calls: list[Answer]) -> None:
    for name in names:
        gateway.vllm.finish(name, [1])
    await asyncio.gather(*calls)


async def test_run_ahead_beyond_the_free_slots_is_busy(gateway: Gateway) -> None:
    calls = await running(gateway, "a", "b", "c", lane="run_ahead")
    response = await gateway.generate("d", lane="run_ahead")
    assert (response.status_code, response.json()["type"]) == (429, "EngineBusy")
    assert await counts(gateway) == (0, 0, 3)
    await finish_all(gateway, ["a", "b", "c"], calls)
    assert await counts(gateway) == (0, 0, 0)


async def test_the_youngest_run_ahead_gives_way_and_its_client_gets_the_partial_tokens(
    gateway: Gateway,
) -> None:
    old, young = await running(gateway, "old", "young", lane="run_ahead")
    policy = await running(gateway, "p1", "p2")
    response = await young
    assert finish_reason(response) == "abort"
    assert response.json()["choices"][0]["token_ids"] == [7, 8]
    assert gateway.vllm.aborts == ["generate-tokens-young"]
    assert not old.done()
    await finish_all(gateway, ["old", "p1", "p2"], [old, *policy])


async def test_policy_rollouts_reach_the_engine_at_once_even_beyond_its_slots(
    gateway: Gateway,
) -> None:
    names = [f"p{index}" for index in range(6)]
    calls = await running(gateway, *names)
    assert await counts(gateway) == (4, 2, 0)
    assert (await gateway.generate("p6")).status_code == 429
    await finish_all(gateway, names, calls)


async def test_an_id_in_flight_is_a_conflict(gateway: Gateway) -> None:
    calls = await running(gateway, "same")
    response = await gateway.generate("same")
    assert (response.status_code, response.json()["type"]) == (409, "DuplicateRequest")
    await finish_all(gateway, ["same"], calls)
    again = await running(gateway, "same")
    await finish_all(gateway, ["same"], again)


async def test_clients_abort_by_their_own_ids_and_unknown_ones_are_ignored(
    gateway: Gateway,
) -> None:
    [mine, other] = await running(gateway, "mine", "other")
    body = {"request_ids": ["mine", "never-seen"]}
    response = await gateway.http.post("/inference/v1/abort_requests", json=body)
    assert response.status_code == 200
    assert finish_reason(await mine) == "abort"
    assert gateway.vllm.aborts == ["generate-tokens-mine"]
    await finish_all(gateway, ["other"], [other])


async def test_an_empty_abort_aborts_nothing(gateway: Gateway) -> None:
    [call] = await running(gateway, "r1")
    await gateway.http.post("/inference/v1/abort_requests", json={"request_ids": []})
    assert gateway.vllm.aborts == []
    await finish_all(gateway, ["r1"], [call])


async def test_an_abort_that_overtakes_its_request_is_repeated(gateway: Gateway) -> None:
    gateway.vllm.num_ignored_aborts = 2
    [call] = await running(gateway, "r1")
    await gateway.http.post("/inference/v1/abort_requests", json={"request_ids": ["r1"]})
    assert finish_reason(await call) == "abort"
    assert gateway.vllm.aborts == ["generate-tokens-r1"] * 3


async def test_an_engine_that_never_answers_an_abort_is_left(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srt_rollout.flights.ABORT_INTERVAL_SECONDS", 0.001)
    gateway.vllm.num_ignored_aborts = 1000
    [call] = await running(gateway, "r1")
    await gateway.http.post("/inference/v1/abort_requests", json={"request_ids": ["r1"]})
    response = await call
    assert finish_reason(response) == "abort"
    assert response.json()["choices"][0]["token_ids"] == []
    assert await counts(gateway) == (0, 0, 0)


async def test_a_client_that_goes_away_aborts_its_rollout(gateway: Gateway) -> None:
    body = {"request_id": "r1", "token_ids": [1], "sampling_params": {"max_tokens": 4}}
    gone = asyncio.Event()
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_message: dict[str, Any]) -> None:
        return

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/inference/v1/generate",
        "raw_path": b"/inference/v1/generate",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {TOKEN}".encode())],
    }
    call = asyncio.create_task(gateway.app(scope, receive, send))  # type: ignore[arg-type]
    await gateway.vllm.wait_running("r1")
    gone.set()
    await call
    assert gateway.vllm.aborts == ["generate-tokens-r1"]
    assert await counts(gateway) == (0, 0, 0)


async def test_a_drain_refuses_new_work_lets_policy_end_and_sends_run_ahead_away(
    gateway: Gateway,
) -> None:
    [policy] = await running(gateway, "policy")
    [ahead] = await running(gateway, "ahead", lane="run_ahead")
    draining = asyncio.create_task(gateway.pod.drain())
    assert finish_reason(await ahead) == "abort"
    for response in (await gateway.http.get("/readyz"), await gateway.generate("late")):
        assert (response.status_code, response.json()["type"]) == (503, "EngineUnavailable")
    assert (await gateway.http.get("/load")).json()["is_draining"]
    assert (await gateway.http.get("/livez")).status_code == 200
    assert not draining.done()
    gateway.vllm.finish("policy", [1])
    assert finish_reason(await policy) == "length"
    await draining


async def test_policy_rollouts_that_outlast_the_drain_are_aborted(tmp_path: Path) -> None:
    async with Gateway.started(tmp_path, drain_seconds=0.01) as gateway:
        [call] = await running(gateway, "slow")
        await gateway.pod.drain()
        assert finish_reason(await call) == "abort"
