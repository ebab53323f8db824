"""An engine whose front end lives on while nothing is decoded: told by health, and given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from srt_common.bearer import BearerToken
from srt_common.errors import EngineUnavailable
from srt_rollout import pod
from srt_rollout.__main__ import make_server, run
from srt_rollout.engine import EngineProcess, free_port
from support.fake_vllm import FakeVllm
from support.gateway import Gateway


@pytest.fixture
async def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(pod, "WATCH_INTERVAL_SECONDS", 0.001)
    async with Gateway.started(tmp_path) as started:
        yield started


async def wait_for_status(gateway: Gateway, status: int) -> None:
    while (await gateway.http.get("/readyz")).status_code != status:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def test_nothing_is_served_while_the_engine_is_not_healthy(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod, "MAX_UNHEALTHY_LOOKS", 1_000_000)
    watching = asyncio.create_task(gateway.pod.watch())
    gateway.vllm.is_healthy = False
    await wait_for_status(gateway, 503)
    for response in (await gateway.http.get("/load"), await gateway.generate("r1")):
        assert (response.status_code, response.json()["type"]) == (503, "EngineUnavailable")
        assert "not healthy" in response.json()["detail"]
    assert (await gateway.http.get("/livez")).status_code == 200
    gateway.vllm.is_healthy = True
    await wait_for_status(gateway, 200)
    watching.cancel()


async def test_an_engine_that_stays_so_is_given_up(gateway: Gateway) -> None:
    gateway.vllm.is_healthy = False
    with pytest.raises(EngineUnavailable, match="not healthy any more"):
        await gateway.pod.watch()


async def test_the_pod_ends_with_an_engine_that_does_not_end_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod, "WATCH_INTERVAL_SECONDS", 0.001)
    gateway = Gateway(FakeVllm(), tmp_path, prefetch=None, port=free_port(), stop_seconds=1.0)
    process = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    engine = EngineProcess(process, port=1)
    server = make_server(gateway.settings, gateway.pod, BearerToken(gateway.token_file))
    serving = asyncio.create_task(run(gateway.pod, engine, server, asyncio.Event()))
    try:
        await wait_for_status(gateway, 200)
        gateway.vllm.is_healthy = False
        assert await serving == 1
    finally:
        await engine.stop(timeout_seconds=1.0)
