"""New weights in a running engine: the order of calls, what is refused, what failures leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from support.gateway import Gateway

ORDER = [
    "/pause",
    "/init_weight_transfer_engine",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/reset_prefix_cache",
    "srt_set_policy_version",
    "/resume",
]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with Gateway.started(tmp_path) as started:
        for version in (1, 2):
            put_weights(started, f"policy-{version}")
        yield started


def put_weights(gateway: Gateway, name: str) -> None:
    folder = gateway.weights_root / name
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")


async def update(gateway: Gateway, path: str, policy_version: int) -> httpx.Response:
    body = {"path": path, "policy_version": policy_version}
    return await gateway.http.post("/srt/v1/weights", json=body)


async def test_weights_are_loaded_in_the_one_right_order(gateway: Gateway) -> None:
    response = await update(gateway, "policy-1", 1)
    assert response.json() == {"policy_version": 1}
    assert gateway.vllm.calls == ORDER
    assert (await gateway.http.get("/load")).json()["policy_version"] == 1


async def test_the_backend_is_initialized_once(gateway: Gateway) -> None:
    await update(gateway, "policy-1", 1)
    gateway.vllm.calls.clear()
    await update(gateway, "policy-2", 2)
    assert gateway.vllm.calls == [name for name in ORDER if "init" not in name]


async def test_a_version_that_is_loaded_already_changes_nothing(gateway: Gateway) -> None:
    await update(gateway, "policy-1", 1)
    gateway.vllm.calls.clear()
    assert (await update(gateway, "policy-1", 1)).status_code == 200
    assert gateway.vllm.calls == []


async def test_two_updates_at_once_are_done_one_after_the_other(gateway: Gateway) -> None:
    await asyncio.gather(update(gateway, "policy-1", 1), update(gateway, "policy-2", 2))
    assert gateway.vllm.calls == ORDER + [name for name in ORDER if "init" not in name]
    assert (await gateway.http.get("/load")).json()["policy_version"] == 2


@pytest.mark.parametrize(
    "path", ["", ".", "..", "../weights/policy-1", "/etc", "policy-1/..", "link", "missing", "a\0b"]
)
async def test_a_path_that_leads_out_or_nowhere_is_refused_before_the_engine_is_touched(
    gateway: Gateway, path: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model.safetensors").write_bytes(b"")
    (gateway.weights_root / "link").symlink_to(outside)
    response = await update(gateway, path, 1)
    assert (response.status_code, response.json()["type"]) == (400, "EngineRefused")
    assert "path is" in response.json()["detail"]
    assert gateway.vllm.calls == []


async def test_a_negative_version_is_refused(gateway: Gateway) -> None:
    response = await update(gateway, "policy-1", -1)
    assert "policy_version is -1; allowed are 0 or more" in response.json()["detail"]


async def test_without_a_weights_root_nothing_is_loaded(tmp_path: Path) -> None:
    async with Gateway.started(tmp_path, weights_root=None) as gateway:
        response = await update(gateway, "policy-1", 1)
        assert response.status_code == 400
        assert "SRT_ROLLOUT_WEIGHTS_ROOT is not set" in response.json()["detail"]


async def test_without_a_drafter_nobody_is_told_of_the_version(tmp_path: Path) -> None:
    async with Gateway.started(tmp_path, drafter_enabled=False) as gateway:
        put_weights(gateway, "policy-1")
        await update(gateway, "policy-1", 1)
        assert gateway.vllm.calls == [name for name in ORDER if "srt_" not in name]


async def test_a_failure_before_the_load_leaves_the_old_weights_in_use(gateway: Gateway) -> None:
    gateway.vllm.failing = {"/start_weight_update"}
    response = await update(gateway, "policy-1", 1)
    assert (response.status_code, response.json()["type"]) == (503, "EngineUnavailable")
    assert gateway.vllm.calls[-1] == "/resume"
    assert (await gateway.http.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    "failing", ["/update_weights", "/finish_weight_update", "/reset_prefix_cache"]
)
async def test_after_a_failure_half_way_nothing_is_sampled_until_an_update_succeeds(
    gateway: Gateway, failing: str
) -> None:
    call = asyncio.create_task(gateway.generate("r1"))
    await gateway.vllm.wait_running("r1")
    gateway.vllm.failing = {failing}
    response = await update(gateway, "policy-1", 1)
    assert response.status_code == 503
    assert gateway.vllm.calls[-1] == "/resume"
    assert (await call).json()["choices"][0]["finish_reason"] == "abort"
    assert "failed half way" in (await gateway.generate("r2")).json()["detail"]
    assert (await gateway.http.get("/load")).json()["policy_version"] == -1
    gateway.vllm.failing = set()
    assert (await update(gateway, "policy-1", 1)).status_code == 200
    assert (await gateway.http.get("/readyz")).status_code == 200
    assert (await gateway.http.get("/load")).json()["policy_version"] == 1


async def test_run_ahead_is_gone_before_the_engine_pauses_and_stays_out(gateway: Gateway) -> None:
    ahead = asyncio.create_task(gateway.generate("ahead", lane="run_ahead"))
    await gateway.vllm.wait_running("ahead")
    await update(gateway, "policy-1", 1)
    assert (await ahead).json()["choices"][0]["finish_reason"] == "abort"
    again = asyncio.create_task(gateway.generate("again", lane="run_ahead"))
    await gateway.vllm.wait_running("again")
    gateway.vllm.finish("again", [1])
    assert (await again).status_code == 200
