"""A rollout pod that drafts: real vLLM, the SRT drafter inside, the gateway in front.

What a rollout's answer, the pod's counters and its trace say about drafts, and that new weights
reach the drafter. Losslessness is shown in test_lossless.py. The last test ends the pod.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from srt_common.telemetry.span_file import SpanRecord, read_folder
from support.gateway_process import GatewayProcess, has_ended, rollout, wait_for_load
from support.tiny_model import make_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("drafting")
    model = make_tiny_model(folder / "model", max_position_embeddings=4096)
    update = folder / "weights" / "policy-000001"
    update.mkdir(parents=True)
    weights = (model / "model.safetensors").read_bytes()
    (update / "model.safetensors").write_bytes(weights)
    always = {"SRT_ROLLOUT_MAX_DRAFT_TOKENS": "8", "SRT_DRAFTER_MIN_SURVIVAL": "0.02"}
    with GatewayProcess.started(folder, model, **always) as started:
        yield started


async def test_repeated_rollouts_are_drafted_and_every_count_agrees(pod: GatewayProcess) -> None:
    async with pod.client() as http:
        answers: list[dict[str, Any]] = []
        for number in range(3):
            body = rollout(f"r{number}", max_tokens=60, temperature=0.0)
            answers.append((await http.post("/inference/v1/generate", json=body)).json())
        await http.post("/inference/v1/generate", json=rollout("last", max_tokens=1))
        stats = (await http.get("/srt/v1/stats")).json()
        metrics = (await http.get("/metrics")).text
    assert len({str(answer["choices"][0]["token_ids"]) for answer in answers}) == 1
    accepted = [
        answer["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"] for answer in answers
    ]
    assert accepted[1] > 10 and accepted[2] > 10
    assert stats["engine"] == "engine-0"
    assert stats["trees"]["rows"]["num_accepted_tokens"] == sum(accepted)
    assert sum_of("srt_draft_accepted_tokens_total", metrics) == sum(accepted)


def sum_of(metric: str, exposition: str) -> float:
    lines = [line for line in exposition.splitlines() if line.startswith(metric + "{")]
    return sum(float(line.rsplit(" ", maxsplit=1)[1]) for line in lines)


async def test_the_drafter_learns_of_new_weights(pod: GatewayProcess) -> None:
    async with pod.client() as http:
        body = {"path": "policy-000001", "policy_version": 1}
        assert (await http.post("/srt/v1/weights", json=body)).json() == {"policy_version": 1}
        assert (await http.get("/srt/v1/stats")).json()["policy_version"] == 1
        answer = await http.post("/inference/v1/generate", json=rollout("r", max_tokens=4))
    versions = answer.json()["choices"][0]["weight_versions"]
    assert [span["version"] for span in versions] == ["1"]


async def test_a_prompt_as_long_as_allowed_does_not_stop_drafting(pod: GatewayProcess) -> None:
    """The engine's own limit leaves room for a draft (reference: vllm.md 1, traps)."""
    async with pod.client() as http:
        long = rollout("long", max_tokens=40) | {"token_ids": [5] * 3960}
        short = rollout("short", max_tokens=60, temperature=0.0)
        _, answer = await asyncio.gather(
            http.post("/inference/v1/generate", json=long),
            http.post("/inference/v1/generate", json=short),
        )
    drafts = answer.json()["metrics"]["speculative_decoding"]
    assert drafts["num_accepted_draft_tokens"] > 10


async def test_one_trace_holds_the_client_the_gateway_and_the_engine(pod: GatewayProcess) -> None:
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    async with pod.client() as http:
        await http.post(
            "/inference/v1/generate",
            json=rollout("traced", max_tokens=20),
            headers={"traceparent": f"00-{trace_id}-{parent}-01"},
        )
        spans: dict[str, SpanRecord] = {}
        while len(spans) < 2:
            await http.post("/inference/v1/generate", json=rollout("next", max_tokens=1))
            await asyncio.sleep(0.2)
            found = await asyncio.to_thread(read_folder, pod.folder)
            spans = {span.name: span for span in found if span.trace_id == trace_id}
    gateway, engine = spans["gateway.generate"], spans["engine.rollout"]
    assert gateway.parent_span_id == parent
    assert engine.parent_span_id == gateway.span_id
    for name in ("srt.draft.steps", "srt.draft.tokens", "srt.draft.accepted_tokens"):
        assert name in engine.attributes
    assert gateway.attributes["srt.draft.tokens"] == engine.attributes["srt.draft.tokens"]


def test_logs_hold_no_tokens(pod: GatewayProcess) -> None:
    text = Path(pod.log_file).read_text()
    assert "[5, 5, 5" not in text and "[5, 6, 7, 8]" not in text


async def test_a_drain_lets_policy_rollouts_end_and_takes_the_engine_along(
    pod: GatewayProcess,
) -> None:
    processes = pod.engine_processes()
    assert len(processes) >= 3
    async with pod.client() as http:
        bodies = [rollout(f"last-{number}", max_tokens=300) for number in range(3)]
        posts = (http.post("/inference/v1/generate", json=body) for body in bodies)
        calls = [asyncio.create_task(post) for post in posts]
        await wait_for_load(http, num_running_policy=3)
        pod.process.send_signal(signal.SIGTERM)
        answers = [response.json()["choices"][0] for response in await asyncio.gather(*calls)]
    assert all(len(answer["token_ids"]) == 300 for answer in answers)
    assert await asyncio.to_thread(pod.process.wait, 20) == 0
    assert all(has_ended(pid) for pid in processes)
