"""HTTP to an engine: what is sent, and which error each kind of trouble becomes."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from srt_common.errors import EngineError, EngineRefused, EngineUnavailable
from srt_common.messages.rollouts import (
    ExtraArgs,
    GenerateRequest,
    SamplingParams,
    WeightUpdate,
)
from srt_trainer.engine_client import EngineClient, open_http
from srt_trainer.settings import EngineEndpoint

REQUEST = GenerateRequest(
    request_id="r#1",
    token_ids=[1, 2],
    sampling_params=SamplingParams(
        max_tokens=3, logprobs=0, extra_args=ExtraArgs(srt_rollout_id="r")
    ),
)
ANSWER = {"choices": [{"index": 0, "token_ids": [7], "finish_reason": "stop"}], "usage": None}

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> EngineClient:
    http = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    endpoint = EngineEndpoint(name="engine-0", url="http://engine:8000")
    return EngineClient(endpoint, http, timeout_seconds=5.0)


async def test_a_request_travels_in_vllms_shape_with_trace_headers() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=ANSWER)

    response = await client(handler).generate(
        REQUEST, headers={"traceparent": "00-a-b-01"}, timeout_seconds=9.0
    )
    assert response.choices[0].token_ids == [7]
    (request,) = seen
    assert str(request.url) == "http://engine:8000/inference/v1/generate"
    assert request.headers["traceparent"] == "00-a-b-01"
    assert request.headers["content-type"] == "application/json"
    assert request.extensions["timeout"]["read"] == 9.0
    body = json.loads(request.content)
    assert body["request_id"] == "r#1"
    assert body["sampling_params"]["logprobs"] == 0
    assert body["sampling_params"]["extra_args"]["srt_rollout_id"] == "r"


async def test_weights_and_load_have_paths_of_their_own() -> None:
    paths: list[tuple[str, str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append((request.method, request.url.path))
        load = {
            "engine": "engine-0",
            "policy_version": 4,
            "max_num_seqs": 8,
            "reserve_slots": 1,
            "num_running_policy": 0,
            "num_waiting_policy": 0,
            "num_running_run_ahead": 0,
        }
        return httpx.Response(200, json=load)

    engine = client(handler)
    await engine.update_weights(WeightUpdate(path="policy-000004", policy_version=4))
    assert (await engine.load()).policy_version == 4
    assert paths == [("POST", "/srt/v1/weights"), ("GET", "/load")]


async def error_of(handler: Handler) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await client(handler).generate(REQUEST, headers={}, timeout_seconds=1.0)
    return caught.value


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
async def test_what_may_be_better_later_is_unavailable(status: int) -> None:
    error = await error_of(lambda _: httpx.Response(status))
    assert isinstance(error, EngineUnavailable)
    assert error.reason == f"POST /inference/v1/generate was answered {status}"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_what_stays_wrong_is_refused_and_quotes_nothing_but_the_problems_type(
    status: int,
) -> None:
    problem = {"type": "TooLong", "detail": "token_ids [1, 2] are too many"}
    error = await error_of(lambda _: httpx.Response(status, json=problem))
    assert isinstance(error, EngineRefused)
    assert error.reason == f"POST /inference/v1/generate was answered {status} TooLong"
    error = await error_of(lambda _: httpx.Response(status, text="token_ids [1, 2]"))
    assert str(error) == f"engine-0: POST /inference/v1/generate was answered {status} "


async def test_a_broken_connection_and_a_timeout_are_unavailable() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    def hang(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    assert [(await error_of(handler)).reason for handler in (refuse, hang)] == [
        "ConnectError",
        "ReadTimeout",
    ]


async def test_an_answer_of_another_shape_is_unavailable() -> None:
    error = await error_of(lambda _: httpx.Response(200, text="<html>"))
    assert isinstance(error, EngineUnavailable)
    assert "not what was asked for" in error.reason


async def test_the_token_goes_into_every_request() -> None:
    async with (
        open_http("secret") as with_token,
        open_http(None) as without,
    ):
        assert with_token.headers["authorization"] == "Bearer secret"
        assert "authorization" not in without.headers


async def test_why_weights_cannot_be_loaded_is_told_in_the_gateways_words() -> None:
    """Neither the request nor its answer holds tokens."""
    problem = {"type": "EngineUnavailable", "detail": "engine-0: weights: 5 bytes are free"}
    engine = client(lambda _: httpx.Response(503, json=problem))
    with pytest.raises(EngineUnavailable, match=r"was answered 503: engine-0: weights: 5 bytes a"):
        await engine.update_weights(WeightUpdate(path="policy-000004", policy_version=4))


async def test_an_engine_that_was_known_by_its_address_gets_its_own_name() -> None:
    load = {
        "engine": "tiny-rollout-3",
        "policy_version": 0,
        "max_num_seqs": 8,
        "reserve_slots": 1,
        "num_running_policy": 0,
        "num_waiting_policy": 0,
        "num_running_run_ahead": 0,
    }
    engine = client(lambda _: httpx.Response(200, json=load))
    await engine.load()
    assert (engine.name, engine.url) == ("tiny-rollout-3", "http://engine:8000")
