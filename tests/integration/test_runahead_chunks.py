"""One run-ahead chunk from task to outcome, without Celery (test_runahead_worker.py has it).

A real server for coordination; the real gateway in front of a fake engine.

Promises 5 and 6: fenced by epoch, gone soon after its bubble, in lane ``run_ahead`` only, partial
tokens kept; and 4: safe to deliver twice.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from srt_common.clock import SystemClock
from srt_common.coordination import Bubble, Coordination, UnfinishedSample, WindowPrompt
from srt_common.keys import PromptKey
from srt_common.messages.runahead import RunaheadJob, RunaheadOutcome
from srt_runahead.bubble_watch import BubbleWatch
from srt_runahead.gateway_client import GatewayClient
from srt_runahead.generate import ChunkRunner
from support.gateway import Gateway
from support.redis_server import RedisServer

KEY = PromptKey(bytes.fromhex("ab" * 16))
PROMPT = [1, 2, 3]
EPOCH = 5


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer.started() as server:
        yield server


@pytest.fixture
async def coordination(server: RedisServer, tmp_path: Path) -> AsyncIterator[Coordination]:
    """An open bubble for engine-0 and a window of one prompt."""
    job = Coordination.from_url(server.url, job=tmp_path.name, timeout_seconds=0.5)
    await job.hold_bubble("engine-0", Bubble(epoch=EPOCH, deadline_at_unix=time.time() + 60))
    prompt = WindowPrompt(KEY, step=2, num_rollouts=4, max_tokens=20, temperature=0.7, top_k=5)
    await job.publish_window([prompt], [PROMPT])
    yield job
    await job.close()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with Gateway.started(tmp_path) as started:
        yield started


@pytest.fixture
async def runner(coordination: Coordination, gateway: Gateway) -> ChunkRunner:
    return make_runner(coordination, gateway)


def make_runner(coordination: Coordination, gateway: Gateway, **changes: Any) -> ChunkRunner:
    http = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=gateway.app), base_url="http://gateway"
    )
    watch = BubbleWatch(
        lambda: coordination.bubble("engine-0"), interval_seconds=0.05, clock=SystemClock()
    )
    return ChunkRunner(
        coordination,
        GatewayClient(http, engine="engine-0", token_file=gateway.token_file),
        watch,
        chunk_timeout_seconds=changes.get("chunk_timeout_seconds", 15.0),
        clock=SystemClock(),
    )


def job(**changes: Any) -> RunaheadJob:
    given: dict[str, Any] = {
        "job": "tiny-math",
        "engine": "engine-0",
        "epoch": EPOCH,
        "prompt_key": KEY.hex(),
        "sample": 0,
        "policy_version": 4,
        "chunk_tokens": 8,
        "deadline_at_unix": time.time() + 60,
    }
    return RunaheadJob(**(given | changes))


async def started(gateway: Gateway, number: int = 1) -> list[str]:
    """Ids of the chunks that run in the engine, once there are so many."""
    deadline = time.monotonic() + 5
    while gateway.vllm.num_running < number:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    return list(gateway.vllm.bodies)


async def run_to_its_end(
    runner: ChunkRunner, gateway: Gateway, token_ids: list[int], **changes: Any
) -> RunaheadOutcome:
    known = set(gateway.vllm.bodies)
    call = asyncio.create_task(runner.run(job(**changes), "task"))
    [request_id] = [name for name in await started(gateway) if name not in known]
    gateway.vllm.finish(request_id, token_ids)
    return await call


async def test_a_chunk_samples_as_its_prompt_will_be_sampled_and_in_its_own_lane(
    runner: ChunkRunner, gateway: Gateway
) -> None:
    outcome = await run_to_its_end(runner, gateway, [7] * 8)
    assert (outcome.result, outcome.num_tokens, outcome.is_finished) == ("completed", 8, False)
    [body] = gateway.vllm.bodies.values()
    assert body["token_ids"] == PROMPT
    assert body["priority"] == 10
    params = body["sampling_params"]
    assert (params["max_tokens"], params["temperature"], params["top_k"]) == (8, 0.7, 5)
    assert "logprobs" not in params
    extra = params["extra_args"]
    assert (extra["srt_lane"], extra["srt_num_prompt_tokens"]) == ("run_ahead", 3)
    assert extra["srt_policy_version"] == 4


async def test_a_sample_goes_on_over_chunks_until_it_ends(
    runner: ChunkRunner, gateway: Gateway, coordination: Coordination
) -> None:
    await run_to_its_end(runner, gateway, [7] * 8)
    held = UnfinishedSample(KEY.hex(), 0, 4, chunk=1, token_ids=(7,) * 8)
    assert await coordination.all_unfinished(4) == [held]
    await run_to_its_end(runner, gateway, [8] * 8, chunk=1)
    last = await run_to_its_end(runner, gateway, [9] * 4, chunk=2)
    assert last.is_finished
    assert await coordination.all_unfinished(4) == []
    _, second, third = gateway.vllm.bodies.values()
    assert second["token_ids"] == PROMPT + [7] * 8
    assert third["token_ids"] == PROMPT + [7] * 8 + [8] * 8
    assert third["sampling_params"]["max_tokens"] == 4
    assert third["sampling_params"]["extra_args"]["srt_num_prompt_tokens"] == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": EPOCH - 1},
        {"epoch": EPOCH + 1},
        {"deadline_at_unix": 1.0},
        {"prompt_key": "cd" * 16},
        {"chunk": 1},
    ],
)
async def test_a_chunk_that_comes_too_late_or_from_nowhere_is_dropped_unstarted(
    runner: ChunkRunner, gateway: Gateway, changes: dict[str, Any]
) -> None:
    assert (await runner.run(job(**changes), "task")).result == "expired"
    assert gateway.vllm.bodies == {}


async def test_without_a_bubble_nothing_runs(
    runner: ChunkRunner, gateway: Gateway, coordination: Coordination
) -> None:
    await coordination.close_bubble("engine-0")
    assert (await runner.run(job(), "task")).result == "expired"
    assert gateway.vllm.bodies == {}


async def test_a_chunk_delivered_twice_to_two_tasks_runs_once(
    runner: ChunkRunner, gateway: Gateway
) -> None:
    first = asyncio.create_task(runner.run(job(), "one"))
    [request_id] = await started(gateway)
    assert (await runner.run(job(), "another")).result == "duplicate"
    gateway.vllm.finish(request_id, [7])
    assert (await first).result == "completed"


async def test_a_chunk_that_was_continued_already_is_a_duplicate(
    runner: ChunkRunner, gateway: Gateway, coordination: Coordination
) -> None:
    ahead = UnfinishedSample(KEY.hex(), 0, 4, chunk=2, token_ids=(7,) * 16)
    await coordination.put_unfinished(ahead)
    assert (await runner.run(job(chunk=1), "late")).result == "duplicate"
    assert gateway.vllm.bodies == {}


@pytest.mark.parametrize("successor", [None, EPOCH + 1])
async def test_a_closed_or_replaced_bubble_aborts_its_chunks_within_500_ms_and_keeps_their_tokens(
    runner: ChunkRunner, gateway: Gateway, coordination: Coordination, successor: int | None
) -> None:
    calls = [asyncio.create_task(runner.run(job(sample=n), f"task-{n}")) for n in range(3)]
    await started(gateway, 3)
    closed_at = time.monotonic()
    if successor is None:
        await coordination.close_bubble("engine-0")
    else:
        bubble = Bubble(epoch=successor, deadline_at_unix=time.time() + 60)
        await coordination.hold_bubble("engine-0", bubble)
    outcomes = await asyncio.gather(*calls)
    assert time.monotonic() - closed_at < 0.5
    assert [outcome.result for outcome in outcomes] == ["aborted"] * 3
    assert all(outcome.num_tokens == 2 for outcome in outcomes)
    assert all(0 < (outcome.abort_seconds or 0) < 0.5 for outcome in outcomes)
    held = await coordination.all_unfinished(4)
    assert sorted(one.sample for one in held) == [0, 1, 2]
    assert all((one.chunk, one.token_ids) == (1, (7, 8)) for one in held)


async def test_a_coordination_server_that_freezes_ends_the_chunk_like_a_closed_bubble(
    gateway: Gateway, tmp_path: Path
) -> None:
    with RedisServer.started() as own:
        away = Coordination.from_url(own.url, job=tmp_path.name, timeout_seconds=0.2)
        await away.hold_bubble("engine-0", Bubble(epoch=EPOCH, deadline_at_unix=time.time() + 60))
        await away.publish_window([WindowPrompt(KEY, 2, 4, max_tokens=20)], [PROMPT])
        call = asyncio.create_task(make_runner(away, gateway).run(job(), "task"))
        await started(gateway)
        own.freeze()
        outcome = await asyncio.wait_for(call, 5)
        own.thaw()
        await away.close()
    assert (outcome.result, outcome.num_tokens) == ("aborted", 2)
    assert gateway.vllm.num_running == 0


async def test_a_policy_rollout_ends_a_chunk_whose_bubble_is_still_open(
    runner: ChunkRunner, gateway: Gateway
) -> None:
    calls = [asyncio.create_task(runner.run(job(sample=n), f"task-{n}")) for n in range(3)]
    await started(gateway, 3)
    policy = asyncio.create_task(gateway.generate("real"))
    await gateway.vllm.wait_running("real")
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().result for task in done] == ["aborted"]
    assert [task.result().abort_seconds for task in done] == [None]
    gateway.vllm.finish("real", [1])
    await policy
    runner.stop()
    await asyncio.gather(*calls)


async def test_no_free_slot_gives_the_claim_back(
    runner: ChunkRunner, gateway: Gateway, coordination: Coordination
) -> None:
    policy = [asyncio.create_task(gateway.generate(f"real-{n}")) for n in range(3)]
    await started(gateway, 3)
    assert (await runner.run(job(), "task")).result == "expired"
    assert await coordination.claim_sample(KEY.hex(), 0, 4, "other")
    for n in range(3):
        gateway.vllm.finish(f"real-{n}", [1])
    await asyncio.gather(*policy)


async def test_a_chunk_that_takes_too_long_is_aborted_and_goes_on_later(
    coordination: Coordination, gateway: Gateway
) -> None:
    runner = make_runner(coordination, gateway, chunk_timeout_seconds=0.05)
    outcome = await runner.run(job(), "task")
    assert (outcome.result, outcome.num_tokens, outcome.abort_seconds) == ("aborted", 2, None)
    assert len(await coordination.all_unfinished(4)) == 1


async def test_a_worker_that_stops_aborts_what_runs_and_starts_nothing_more(
    runner: ChunkRunner, gateway: Gateway
) -> None:
    call = asyncio.create_task(runner.run(job(), "task"))
    await started(gateway)
    runner.stop()
    assert (await call).result == "aborted"
    assert (await runner.run(job(sample=1), "next")).result == "expired"
    assert gateway.vllm.num_running == 0


async def test_an_engine_that_stays_away_makes_a_dead_letter_without_tokens(
    runner: ChunkRunner, gateway: Gateway, coordination: Coordination
) -> None:
    await gateway.pod.drain()
    assert (await runner.run(job(), "task")).result == "failed"
    [letter] = [json.loads(data) for data in await coordination.dead_letters()]
    assert letter["task"] == "task"
    assert msgspec.convert(letter["job"], RunaheadJob).prompt_key == KEY.hex()
    assert str(PROMPT) not in str(letter)
    assert await coordination.claim_sample(KEY.hex(), 0, 4, "other")


async def test_every_chunk_is_in_the_jobs_totals(
    runner: ChunkRunner, gateway: Gateway, coordination: Coordination
) -> None:
    await run_to_its_end(runner, gateway, [7] * 8)
    await runner.run(job(epoch=1), "late")
    totals = await coordination.outcomes()
    assert totals.num_results == {"completed": 1, "expired": 1}
    assert totals.num_tokens == 8
