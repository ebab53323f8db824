"""The gateway in front of a real vLLM: abort, lanes, weights, and the end of all processes.

Promises 5 and 7, and facts of vLLM that the gateway is built on (reference F3, F4). The drafter is
off here (test_gateway_drafting.py has it on). The last test of the shared pod kills it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save

from support.gateway_process import (
    TOKEN,
    GatewayProcess,
    has_ended,
    load,
    rollout,
    wait_for_load,
)
from support.tiny_model import make_tiny_model
from support.weights_site import WeightsSite

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]
GENERATE = "/inference/v1/generate"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of one shape: ``first`` and ``second``."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("first", "second")):
        make_tiny_model(folder / name, seed=seed, max_position_embeddings=4096)
    return folder


@pytest.fixture(scope="module")
def site() -> Iterator[WeightsSite]:
    with WeightsSite.started(token=TOKEN) as started:
        yield started


@pytest.fixture(scope="module")
def pod(
    models: Path, site: WeightsSite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("pod")
    with GatewayProcess.started(
        folder,
        models / "first",
        SRT_ROLLOUT_DRAFTER_ENABLED="false",
        SRT_ROLLOUT_WEIGHTS_URL_PREFIX=site.base_url,
    ) as started:
        for name in ("first", "second"):
            (started.weights_root / f"link-{name}").symlink_to(models / name)
            copy(models / name, started.weights_root / name)
        (started.weights_root / "broken").mkdir()
        (started.weights_root / "broken" / "model.safetensors").write_bytes(b"no tensors" * 50)
        yield started


@pytest.fixture
async def http(pod: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with pod.client() as client:
        yield client


def copy(source: Path, target: Path) -> None:
    target.mkdir()
    (target / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())


async def choice(http: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    response = await http.post(GENERATE, json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["choices"][0]
    return found


async def greedy(http: httpx.AsyncClient) -> dict[str, Any]:
    return await choice(http, rollout("greedy", max_tokens=12, temperature=0.0))


async def engine_idle(http: httpx.AsyncClient) -> bool:
    """vLLM's own count: nothing runs and nothing waits."""
    text = (await http.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
    return bool(lines) and all(line.endswith(" 0.0") for line in lines)


async def test_sampled_log_probabilities_come_with_the_tokens(http: httpx.AsyncClient) -> None:
    found = await choice(http, rollout("r1", max_tokens=5, logprobs=0))
    content = found["logprobs"]["content"]
    assert [entry["token_id"] for entry in content] == found["token_ids"]
    assert all(entry["logprob"] <= 0 for entry in content)
    assert found["weight_versions"] == [{"version": "0", "start": 0, "end": 5}]


async def test_an_abort_frees_the_engine_within_half_a_second_and_keeps_the_tokens(
    http: httpx.AsyncClient,
) -> None:
    call = asyncio.create_task(choice(http, rollout("long")))
    await wait_for_load(http, num_running_policy=1)
    await asyncio.sleep(0.3)
    asked = time.monotonic()
    await http.post("/inference/v1/abort_requests", json={"request_ids": ["long"]})
    found = await call
    assert time.monotonic() - asked < 0.5
    assert found["finish_reason"] == "abort"
    assert 0 < len(found["token_ids"]) < 3900
    while not await engine_idle(http):
        assert time.monotonic() - asked < 5, "vLLM still runs the aborted request (F4)"


async def test_policy_rollouts_push_run_ahead_out(http: httpx.AsyncClient) -> None:
    ahead = [
        asyncio.create_task(choice(http, rollout(f"ahead-{index}", lane="run_ahead")))
        for index in range(3)
    ]
    await wait_for_load(http, num_running_run_ahead=3)
    refused = await http.post(GENERATE, json=rollout("ahead-3", lane="run_ahead"))
    assert (refused.status_code, refused.json()["type"]) == (429, "EngineBusy")
    started = time.monotonic()
    policy = [
        asyncio.create_task(choice(http, rollout(f"policy-{index}", max_tokens=40)))
        for index in range(4)
    ]
    aborted = await asyncio.gather(*ahead)
    assert time.monotonic() - started < 0.5
    assert [found["finish_reason"] for found in aborted] == ["abort"] * 3
    assert all(len(found["token_ids"]) == 40 for found in await asyncio.gather(*policy))


async def test_a_client_that_goes_away_frees_the_engine(http: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await http.post(GENERATE, json=rollout("leaving"), timeout=0.5)
    await wait_for_load(http, num_running_policy=0)


async def test_an_id_beyond_the_vocabulary_does_not_end_the_engine(http: httpx.AsyncClient) -> None:
    response = await http.post(GENERATE, json=rollout("bad") | {"token_ids": [5, 1_000_000]})
    assert response.status_code == 400
    assert len((await greedy(http))["token_ids"]) == 12


async def test_new_weights_change_what_is_sampled_and_how_it_is_labelled(
    http: httpx.AsyncClient,
) -> None:
    first = await greedy(http)
    running = asyncio.create_task(choice(http, rollout("spanning")))
    await wait_for_load(http, num_running_policy=1)
    await asyncio.sleep(0.3)
    response = await http.post("/srt/v1/weights", json={"path": "second", "policy_version": 1})
    assert response.json() == {"policy_version": 1}
    spans = (await running)["weight_versions"]
    assert [span["version"] for span in spans] == ["0", "1"]
    second = await greedy(http)
    assert second["token_ids"] != first["token_ids"]
    assert second["weight_versions"][0]["version"] == "1"
    assert (await load(http))["policy_version"] == 1
    await http.post("/srt/v1/weights", json={"path": "first", "policy_version": 0})
    assert (await greedy(http))["token_ids"] == first["token_ids"]


async def test_weights_fetched_in_shards_are_those_of_a_folder_and_name_who_they_serve(
    models: Path, site: WeightsSite, http: httpx.AsyncClient
) -> None:
    """The second shard breaks off once; afterwards only rollouts of that version are sampled."""
    await http.post("/srt/v1/weights", json={"path": "second", "policy_version": 1})
    from_folder = await greedy(http)
    tensors = load_file(models / "second" / "model.safetensors")
    names = sorted(tensors)
    shards = {
        f"model-{number}.safetensors": save({name: tensors[name] for name in part})
        for number, part in enumerate((names[::2], names[1::2]))
    }
    url = site.offer(2, shards)
    site.script = [lambda request: request.serve(), lambda request: request.cut(1000)]
    response = await http.post("/srt/v1/weights", json={"url": url, "policy_version": 2})
    assert response.json() == {"policy_version": 2}
    assert [start for _, start in site.asked] == ["", "", "", "bytes=1000-"]
    found = await greedy(http)
    assert found["token_ids"] == from_folder["token_ids"]
    assert found["weight_versions"][0]["version"] == "2"
    assert (await load(http))["weights_url"] == url
    asking = rollout("late", max_tokens=4, extra_args={"srt_policy_version": 3})
    assert (await http.post(GENERATE, json=asking)).status_code == 503
    await http.post("/srt/v1/weights", json={"path": "first", "policy_version": 0})


async def test_weights_that_cannot_be_read_stop_sampling_until_good_ones_come(
    http: httpx.AsyncClient,
) -> None:
    before = await greedy(http)
    for _ in range(2):
        broken = {"path": "broken", "policy_version": 5}
        response = await http.post("/srt/v1/weights", json=broken)
        assert (response.status_code, response.json()["type"]) == (503, "EngineUnavailable")
    assert (await http.get("/readyz")).status_code == 503
    await http.post("/srt/v1/weights", json={"path": "first", "policy_version": 0})
    assert (await http.get("/readyz")).status_code == 200
    assert (await greedy(http))["token_ids"] == before["token_ids"]


async def test_a_link_out_of_the_weights_root_is_refused(http: httpx.AsyncClient) -> None:
    body = {"path": "link-second", "policy_version": 9}
    assert (await http.post("/srt/v1/weights", json=body)).status_code == 400


async def test_only_the_loopback_reaches_vllm_and_only_with_the_gateway(
    pod: GatewayProcess, http: httpx.AsyncClient
) -> None:
    for path in ("/pause", "/collective_rpc", "/update_weights", "/invocations", "/sleep"):
        assert (await http.post(path)).status_code == 404
    listening = await asyncio.to_thread(listening_addresses, pod)
    assert listening and all(address.startswith("0100007F:") for address in listening)


def listening_addresses(pod: GatewayProcess) -> list[str]:
    """Of all processes of a pod, as the kernel writes them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and is_of(row[9], pod)]


def is_of(inode: str, pod: GatewayProcess) -> bool:
    """True when a process of this pod holds the socket."""
    for pid in [pod.process.pid, *pod.engine_processes()]:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                if str(descriptor.readlink()) == f"socket:[{inode}]":
                    return True
            except FileNotFoundError:
                continue
    return False


async def test_logs_and_spans_hold_no_tokens(pod: GatewayProcess, http: httpx.AsyncClient) -> None:
    marker = [60, 59, 58, 57, 60, 59, 58, 57]
    await choice(http, rollout("marked", max_tokens=4) | {"token_ids": marker})
    text = str(marker).strip("[]")
    logged = pod.log_file.read_text()
    assert text not in logged and text.replace(" ", "") not in logged


def test_sigkill_of_the_gateway_ends_vllm_within_five_seconds(pod: GatewayProcess) -> None:
    processes = pod.engine_processes()
    assert len(processes) >= 3
    pod.process.kill()
    pod.process.wait()
    deadline = time.monotonic() + 5
    while not all(has_ended(pid) for pid in processes):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_engine_that_dies_takes_the_gateway_along(models: Path, tmp_path: Path) -> None:
    with GatewayProcess.started(
        tmp_path, models / "first", SRT_ROLLOUT_DRAFTER_ENABLED="false"
    ) as pod:
        processes = pod.engine_processes()
        os.kill(max(processes), signal.SIGKILL)
        assert pod.process.wait(20) == 1
        assert all(has_ended(pid) for pid in processes)
