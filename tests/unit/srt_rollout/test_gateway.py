"""The gateway's surface: who gets in, what gets through, and in which words it says no.

Lanes, aborts and drains: test_gateway_lanes.py. Weights: test_gateway_weights.py. The engine's
health: test_gateway_health.py. A real vLLM behind it: tests/integration/test_gateway_on_vllm.py.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.fake_vllm import FakeVllm
from support.gateway import Gateway


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with Gateway.started(tmp_path) as started:
        yield started


async def answered(gateway: Gateway, request_id: str, **changes: Any) -> httpx.Response:
    """A rollout that the engine ends at once with tokens 4 and 5."""
    call = asyncio.create_task(gateway.generate(request_id, **changes))
    await gateway.vllm.wait_running(request_id)
    gateway.vllm.finish(request_id, [4, 5])
    return await call


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/health"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/collective_rpc"),
        ("POST", "/update_weights"),
        ("POST", "/abort_requests"),
        ("POST", "/invocations"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/inference/v1/generate"),
        ("POST", "/load"),
        ("POST", "/inference/v1/generate/"),
    ],
)
async def test_what_is_not_on_the_list_is_not_found(
    gateway: Gateway, method: str, path: str
) -> None:
    response = await gateway.http.request(method, path)
    assert (response.status_code, response.json()["type"]) == (404, "NotFound")
    assert gateway.vllm.calls == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/inference/v1/generate"),
        ("POST", "/inference/v1/abort_requests"),
        ("POST", "/v1/completions"),
        ("POST", "/srt/v1/weights"),
        ("GET", "/srt/v1/stats"),
        ("GET", "/metrics"),
    ],
)
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic 0123456789abcdef", "Bearer"])
async def test_without_the_token_nothing_but_load_and_probes_is_answered(
    gateway: Gateway, method: str, path: str, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header}
    transport = httpx.ASGITransport(app=gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as stranger:
        response = await stranger.request(method, path, headers=headers)
        assert (response.status_code, response.json()["type"]) == (401, "Unauthorized")
        for open_path in ("/load", "/livez", "/readyz"):
            assert (await stranger.get(open_path)).status_code == 200


async def test_a_replaced_token_counts_from_the_next_request_on(gateway: Gateway) -> None:
    gateway.token_file.write_text("fedcba9876543210")
    os.utime(gateway.token_file, ns=(1, 1))
    assert (await gateway.http.get("/srt/v1/stats")).status_code == 401
    headers = {"Authorization": "Bearer fedcba9876543210"}
    assert (await gateway.http.get("/srt/v1/stats", headers=headers)).status_code == 200


async def test_a_rollout_is_answered_in_the_engines_own_bytes(gateway: Gateway) -> None:
    response = await answered(gateway, "r1")
    assert response.json()["choices"][0] == {
        "index": 0,
        "token_ids": [4, 5],
        "finish_reason": "length",
    }
    assert response.json()["metrics"]["speculative_decoding"]["num_draft_tokens"] == 6


async def test_the_lane_decides_the_priority_whatever_the_client_asks(gateway: Gateway) -> None:
    await answered(gateway, "p", priority=-100)
    await answered(gateway, "r", priority=-100, lane="run_ahead")
    assert gateway.vllm.bodies["p"].get("priority", 0) == 0
    assert gateway.vllm.bodies["r"]["priority"] == 10


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"token_ids": [1, 64]}, "token_ids has an id outside the vocabulary; allowed are 0 to 63"),
        ({"token_ids": [-1]}, "token_ids has an id outside the vocabulary"),
        ({"token_ids": []}, "the prompt has 0 tokens"),
        ({"sampling_params": {"max_tokens": 30}}, "3 + 30 tokens; allowed are 32 together"),
        ({"sampling_params": {"max_tokens": 0}}, "max_tokens is 0"),
        ({"sampling_params": {"stop_token_ids": [99]}}, "sampling_params.stop_token_ids has an id"),
        ({"sampling_params": {"allowed_token_ids": [99]}}, "sampling_params.allowed_token_ids"),
        ({"sampling_params": {"n": 4}}, "n is 4; allowed is 1"),
        ({"sampling_params": {"min_p": 0.1}}, "min_p is 0.1"),
        ({"sampling_params": {"logit_bias": {"3": 1.0}}}, "logit_bias is set"),
        ({"sampling_params": {"seed": 2**63}}, "seed is 9223372036854775808"),
        ({"sampling_params": {"logits_processors": ["x"]}}, "unknown field `logits_processors`"),
        ({"sampling_params": {"extra_args": {"kv_transfer_params": {}}}}, "`kv_transfer_params`"),
        ({"sampling_params": {"extra_args": {"srt_lane": "fast"}}}, "srt_lane"),
        ({"sampling_params": {"extra_args": {"srt_num_prompt_tokens": 4}}}, "allowed are 1 to 3"),
        ({"sampling_params": {"extra_args": {"srt_prompt_id": "x" * 257}}}, "257 characters"),
        ({"features": {"mm_hashes": {}}}, "unknown field `features`"),
        ({"content_parts": [{"type": "image_url"}]}, "unknown field `content_parts`"),
        ({"stream": True}, "stream is True; allowed is False"),
        ({"request_id": "a b"}, "request_id is not"),
        ({"request_id": "../x\n"}, "request_id is not"),
    ],
)
async def test_a_wrong_request_is_refused_with_a_sentence_and_never_reaches_the_engine(
    gateway: Gateway, changes: dict[str, Any], sentence: str
) -> None:
    request_id = changes.pop("request_id", "r1")
    response = await gateway.generate(request_id, **changes)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "EngineRefused"
    assert sentence in response.json()["detail"]
    assert gateway.vllm.bodies == {}


async def test_a_body_that_is_no_json_is_refused(gateway: Gateway) -> None:
    response = await gateway.http.post("/inference/v1/generate", content=b"{")
    assert (response.status_code, response.json()["type"]) == (400, "EngineRefused")


async def test_a_body_beyond_the_limit_is_cut_off(gateway: Gateway) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b"x" * 1024

    response = await gateway.http.post("/inference/v1/generate", content=endless())
    assert (response.status_code, response.json()["type"]) == (413, "MessageTooLarge")


async def test_the_engines_own_refusal_is_passed_on(gateway: Gateway) -> None:
    response = await gateway.generate("refuse-me")
    assert response.status_code == 400
    assert "vLLM says no" in response.json()["detail"]


async def test_only_known_headers_reach_the_engine(gateway: Gateway) -> None:
    call = asyncio.create_task(
        gateway.http.post(
            "/inference/v1/generate",
            json={"request_id": "r1", "token_ids": [1], "sampling_params": {"max_tokens": 1}},
            headers={"X-Request-Id": "stolen", "X-data-parallel-rank": "3"},
        )
    )
    await gateway.vllm.wait_running("r1")
    gateway.vllm.finish("r1", [1])
    await call
    sent = set(gateway.vllm.headers["r1"])
    assert sent.isdisjoint({"x-request-id", "x-data-parallel-rank", "authorization"})


async def test_completions_pass_through_with_token_prompts(gateway: Gateway) -> None:
    body = {"prompt": [1, 2], "max_tokens": 4, "vllm_xargs": {"srt_rollout_id": "r"}}
    response = await gateway.http.post("/v1/completions", json=body)
    assert response.status_code == 200
    sent = gateway.vllm.bodies["completion"]
    sent["vllm_xargs"].pop("traceparent")
    assert sent == body


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": "text"}, "Expected `array`"),
        ({"prompt": [64]}, "prompt has an id outside the vocabulary"),
        ({"n": 2}, "n is 2"),
        ({"stream": True}, "stream is True"),
        ({"vllm_xargs": {"srt_lane": "run_ahead"}}, "allowed on this route is 'policy'"),
        ({"prompt_embeds": "AAAA"}, "unknown field `prompt_embeds`"),
    ],
)
async def test_wrong_completions_are_refused(
    gateway: Gateway, changes: dict[str, Any], sentence: str
) -> None:
    body = {"prompt": [1, 2], "max_tokens": 4} | changes
    response = await gateway.http.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert sentence in response.json()["detail"]


async def test_load_carries_vllms_gauges_and_no_identity_but_the_engines(gateway: Gateway) -> None:
    await gateway.http.get("/load")
    for _ in range(10):
        await asyncio.sleep(0)
    load = (await gateway.http.get("/load")).json()
    assert load.pop("gpu_age_seconds") >= 0
    assert load == {
        "engine": "engine-0",
        "policy_version": 0,
        "max_num_seqs": 4,
        "reserve_slots": 1,
        "num_running_policy": 0,
        "num_waiting_policy": 0,
        "num_running_run_ahead": 0,
        "num_preemptions": 3,
        "kv_cache_usage": 0.25,
        "is_paused": False,
        "is_draining": False,
        "weights_url": "",
        "gpu_utilization": None,
    }


async def test_stats_come_from_the_worker_and_without_a_drafter_from_the_gateway(
    gateway: Gateway, tmp_path: Path
) -> None:
    assert (await gateway.http.get("/srt/v1/stats")).json() == {"engine": "engine-0"}
    assert gateway.vllm.calls == ["srt_stats"]
    (tmp_path / "stock").mkdir()
    async with Gateway.started(tmp_path / "stock", drafter_enabled=False) as stock:
        stats = (await stock.http.get("/srt/v1/stats")).json()
        assert stats == {"engine": "engine-0", "policy_version": 0}
        assert stock.vllm.calls == []


async def test_metrics_are_vllms_own(gateway: Gateway) -> None:
    assert "vllm:num_preemptions_total" in (await gateway.http.get("/metrics")).text


async def test_before_the_engine_serves_only_liveness_is_answered(tmp_path: Path) -> None:
    vllm = FakeVllm()
    vllm.is_healthy = False
    gateway = Gateway(vllm, tmp_path, prefetch=None)
    async with gateway.http:
        assert (await gateway.http.get("/livez")).status_code == 200
        for path in ("/readyz", "/load", "/srt/v1/stats"):
            assert (await gateway.http.get(path)).status_code == 503
        for response in (await gateway.http.get("/readyz"), await gateway.generate("r1")):
            assert (response.status_code, response.json()["type"]) == (503, "EngineUnavailable")
            assert "starting" in response.json()["detail"]


async def test_the_weights_the_engine_starts_with_are_labelled_version_0(tmp_path: Path) -> None:
    gateway = Gateway(FakeVllm(), tmp_path, prefetch=None)
    await gateway.pod.wait_started()
    assert gateway.vllm.calls == ["/update_weight_version"]


async def test_an_engine_that_never_becomes_healthy_is_given_up(tmp_path: Path) -> None:
    vllm = FakeVllm()
    vllm.is_healthy = False
    gateway = Gateway(vllm, tmp_path, prefetch=None, start_timeout_seconds=1e-9)
    with pytest.raises(Exception, match="not healthy after"):
        await gateway.pod.wait_started()
