"""What gateways and tree caches are asked, and that silence is an answer too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from srt_common.clock import SystemClock
from srt_operator.runahead.assembly import token_in
from srt_operator.runahead.coverage import TreeCacheClient
from srt_operator.signals.nvml import NVML
from srt_operator.signals.rollout_pods import RolloutPods

KEY = bytes(range(16))
Handler = Callable[[httpx.Request], httpx.Response]


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nobody there", request=request)


def cache_of(handler: Handler, folder: Path) -> TreeCacheClient:
    (folder / "token").write_text("secret\n")
    client = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    return TreeCacheClient(client, ["http://a", "http://b"], token=token_in(folder / "token"))


async def test_coverage_is_asked_with_the_token_and_by_keys(tmp_path: Path) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=[{"prompt_key": KEY.hex(), "num_sequences": 5}])

    assert await cache_of(answer, tmp_path).num_sequences([KEY]) == {KEY: 5}
    [request] = seen
    assert request.headers["authorization"] == "Bearer secret"
    assert request.url == "http://a/v1/coverage"
    assert json.loads(request.content) == {"prompt_keys": [KEY.hex()]}


async def test_another_replica_answers_for_one_that_is_gone(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "a":
            return httpx.Response(503)
        return httpx.Response(200, json=[{"prompt_key": KEY.hex(), "num_sequences": 2}])

    assert await cache_of(answer, tmp_path).num_sequences([KEY]) == {KEY: 2}


@pytest.mark.parametrize("content", [b"no json", b'{"of": "another version"}', b'"text"'])
async def test_a_replica_that_is_not_understood_counts_as_away(
    tmp_path: Path, content: bytes
) -> None:
    cache = cache_of(lambda _: httpx.Response(200, content=content), tmp_path)
    assert await cache.num_sequences([KEY]) is None
    assert await cache.stats() == []


async def test_without_a_replica_nothing_is_known(tmp_path: Path) -> None:
    cache = cache_of(refuse, tmp_path)
    assert await cache.num_sequences([KEY]) is None
    assert await cache.num_run_ahead_tokens_used() is None


LOAD = {
    "engine": "rollout-0",
    "policy_version": 3,
    "max_num_seqs": 8,
    "reserve_slots": 2,
    "num_running_policy": 1,
    "num_waiting_policy": 0,
    "num_running_run_ahead": 4,
}


@pytest.mark.parametrize("broken", [refuse, lambda _: httpx.Response(200, content=b"no json")])
async def test_a_silent_engine_keeps_its_last_reading(broken: Handler) -> None:
    answers: list[Handler] = [lambda _: httpx.Response(200, json=LOAD), broken]

    def answer(request: httpx.Request) -> httpx.Response:
        return answers.pop(0)(request)

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    pods = RolloutPods(client, {"rollout-0": "http://a"}, SystemClock())
    first = (await pods.read())["rollout-0"]
    assert (first.load.policy_version, first.load.num_running_run_ahead) == (3, 4)
    assert (await pods.read())["rollout-0"] is first


async def test_an_engine_never_heard_of_is_absent() -> None:
    client = httpx.AsyncClient(transport=httpx.MockTransport(refuse))
    assert await RolloutPods(client, {"rollout-0": "http://a"}, SystemClock()).read() == {}


@pytest.mark.parametrize(
    ("told", "known"),
    [({}, {}), ({"gpu_utilization": None}, {}), ({"gpu_utilization": 0.25}, {"rollout-0": 0.25})],
)
async def test_a_pod_s_gpu_is_known_from_its_load_and_no_gpu_is_no_data(
    told: dict[str, float | None], known: dict[str, float]
) -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=LOAD | told | {"gpu_age_seconds": 0.5})

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    pods = RolloutPods(client, {"rollout-0": "http://a"}, SystemClock())
    nvml = NVML(pods)
    assert await nvml.read() == {}
    loads = await pods.read()
    found = await nvml.read()
    assert {engine: reading.utilization for engine, reading in found.items()} == known
    for engine, reading in found.items():
        assert reading.sampled_at == loads[engine].read_at - 0.5
