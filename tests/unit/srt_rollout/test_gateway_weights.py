"""New weights in a running engine: the order of calls, what is refused, what failures leave, and
which rollouts they may sample."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from support.gateway import TOKEN, Gateway
from support.weights_site import WeightsSite

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


async def test_an_engine_that_cannot_be_resumed_serves_nothing_until_an_update_succeeds(
    gateway: Gateway,
) -> None:
    """Its weights are right, but whatever it is sent would never be answered."""
    call = asyncio.create_task(gateway.generate("r1"))
    await gateway.vllm.wait_running("r1")
    gateway.vllm.failing = {"/resume"}
    assert (await update(gateway, "policy-1", 1)).status_code == 503
    assert (await call).json()["choices"][0]["finish_reason"] == "abort"
    assert (await gateway.http.get("/readyz")).status_code == 503
    assert (await gateway.http.get("/load")).json()["policy_version"] == -1
    gateway.vllm.failing, gateway.vllm.calls = set(), []
    assert (await update(gateway, "policy-1", 1)).status_code == 200
    assert gateway.vllm.calls[-1] == "/resume"
    found = (await gateway.http.get("/load")).json()
    assert (found["policy_version"], found["is_paused"]) == (1, False)


async def test_run_ahead_is_gone_before_the_engine_pauses_and_stays_out(gateway: Gateway) -> None:
    ahead = asyncio.create_task(gateway.generate("ahead", lane="run_ahead"))
    await gateway.vllm.wait_running("ahead")
    await update(gateway, "policy-1", 1)
    assert (await ahead).json()["choices"][0]["finish_reason"] == "abort"
    again = asyncio.create_task(gateway.generate("again", lane="run_ahead"))
    await gateway.vllm.wait_running("again")
    gateway.vllm.finish("again", [1])
    assert (await again).status_code == 200


# -- from a URL
WEIGHTS = {"model.safetensors": b"tensors"}


@pytest.fixture
def site() -> Iterator[WeightsSite]:
    with WeightsSite.started(token=TOKEN) as started:
        yield started


@pytest.fixture
async def remote(tmp_path: Path, site: WeightsSite) -> AsyncIterator[Gateway]:
    """A gateway that may fetch from the site."""
    async with Gateway.started(tmp_path, weights_url_prefix=site.base_url) as started:
        yield started


async def fetch(gateway: Gateway, url: str, policy_version: int) -> httpx.Response:
    body = {"url": url, "policy_version": policy_version}
    return await gateway.http.post("/srt/v1/weights", json=body)


async def test_weights_from_a_url_are_fetched_and_loaded_in_the_same_order(
    remote: Gateway, site: WeightsSite
) -> None:
    url = site.offer(7, WEIGHTS)
    assert (await fetch(remote, url, 7)).json() == {"policy_version": 7}
    assert remote.vllm.calls == ORDER
    load = (await remote.http.get("/load")).json()
    assert (load["policy_version"], load["weights_url"]) == (7, url)
    (folder,) = remote.weights_root.iterdir()
    assert (folder / "model.safetensors").read_bytes() == b"tensors"
    assert (await fetch(remote, url, 7)).status_code == 200
    assert remote.vllm.calls == ORDER


async def test_weights_that_cannot_be_fetched_leave_the_engine_alone(
    remote: Gateway, site: WeightsSite
) -> None:
    site.offer(7, WEIGHTS)
    site.path = "/v1/weights/8"
    response = await fetch(remote, f"{site.base_url}/v1/weights/7", 7)
    assert (response.status_code, response.json()["type"]) == (503, "EngineUnavailable")
    assert "manifest is of version" not in response.json()["detail"]
    assert remote.vllm.calls == []
    assert (await remote.http.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"url": "http://elsewhere/v1/weights/1"}, "url is 'http://elsewhere/v1/weights/1'; all"),
        ({"url": "http://elsewhere", "path": "policy-1"}, "path and url are both given"),
        ({}, "path is ''; allowed are folders below the weights root"),
    ],
)
async def test_an_update_that_is_not_allowed_is_told_in_a_sentence(
    remote: Gateway, body: dict[str, str], sentence: str
) -> None:
    response = await remote.http.post("/srt/v1/weights", json={"policy_version": 1, **body})
    assert response.status_code == 400
    assert sentence in response.json()["detail"]
    assert remote.vllm.calls == []


async def test_without_a_prefix_no_url_is_allowed(gateway: Gateway, site: WeightsSite) -> None:
    body = {"url": site.offer(1, WEIGHTS), "policy_version": 1}
    response = await gateway.http.post("/srt/v1/weights", json=body)
    assert response.status_code == 400
    assert "SRT_ROLLOUT_WEIGHTS_URL_PREFIX is not set" in response.json()["detail"]
    assert site.asked == []


# -- who may sample
async def test_a_policy_rollout_is_sampled_by_the_weights_it_asks_for_or_not_at_all(
    gateway: Gateway,
) -> None:
    """A pod that restarted, or came late, has the weights it started with."""
    extra = {"srt_policy_version": 1, "srt_lane": "policy"}
    refused = await gateway.generate("early", sampling_params={"extra_args": extra})
    assert (refused.status_code, refused.json()["type"]) == (503, "EngineUnavailable")
    assert "srt_policy_version is 1; the weights in use are version 0" in refused.json()["detail"]
    await update(gateway, "policy-1", 1)
    call = asyncio.create_task(gateway.generate("on-time", sampling_params={"extra_args": extra}))
    await gateway.vllm.wait_running("on-time")
    gateway.vllm.finish("on-time", [1])
    assert (await call).status_code == 200
    assert list(gateway.vllm.bodies) == ["on-time"]


@pytest.mark.parametrize("path", ["/pause", "/start_weight_update", "/update_weights"])
async def test_what_comes_while_weights_are_loaded_would_be_sampled_by_the_next_ones(
    gateway: Gateway, path: str
) -> None:
    meeting = gateway.vllm.held[path] = asyncio.Barrier(2)
    updating = asyncio.create_task(update(gateway, "policy-1", 1))
    await meeting.wait()
    extra = {"srt_policy_version": 0, "srt_lane": "policy"}
    refused = await gateway.generate("between", sampling_params={"extra_args": extra})
    assert (refused.status_code, refused.json()["type"]) == (503, "EngineUnavailable")
    assert "new weights are loaded" in refused.json()["detail"]
    await meeting.wait()
    assert (await updating).status_code == 200
    assert gateway.vllm.bodies == {}
    assert (await gateway.http.get("/readyz")).status_code == 200


async def test_run_ahead_and_clients_that_ask_for_no_version_are_served_by_any(
    gateway: Gateway,
) -> None:
    await update(gateway, "policy-2", 2)
    ahead = {"srt_policy_version": 1, "srt_lane": "run_ahead"}
    calls = [
        asyncio.create_task(gateway.generate("ahead", sampling_params={"extra_args": ahead})),
        asyncio.create_task(gateway.generate("any")),
    ]
    await gateway.vllm.wait_running("ahead", "any")
    for request_id in ("ahead", "any"):
        gateway.vllm.finish(request_id, [1])
    assert [(await call).status_code for call in calls] == [200, 200]
