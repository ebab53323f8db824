"""Sampling through trouble: each rollout once, by the right weights, whatever engines do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from opentelemetry import metrics

from srt_common.clock import SystemClock
from srt_common.errors import EngineRefused, EngineUnavailable
from srt_common.keys import PromptKey
from srt_common.messages.rollouts import (
    GenerateResponse,
    SpeculativeDecodingMetrics,
    WeightUpdate,
)
from srt_common.telemetry.instruments import RolloutInstruments
from srt_trainer import engine_pool, rollout_client
from srt_trainer.datasets import Prompt
from srt_trainer.engine_pool import EnginePool
from srt_trainer.environments.single_turn import SingleTurn
from srt_trainer.rollout_client import RolloutClient, RolloutTask, SamplingPlan
from support.scripted_engine import ScriptedEngine, answer, unavailable


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_pool, "FIRST_BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(rollout_client, "FIRST_BACKOFF_SECONDS", 0.0)


@asynccontextmanager
async def pool_of(
    *engines: ScriptedEngine, max_in_flight: int = 4, version: int = 0, attempts: int = 5
) -> AsyncIterator[EnginePool]:
    async def source() -> AsyncIterator[Sequence[ScriptedEngine]]:
        yield engines

    pool = EnginePool(
        source(),  # type: ignore[arg-type]
        max_in_flight=max_in_flight,
        max_load_attempts=attempts,
    )
    async with pool:
        await pool.publish(WeightUpdate(path=f"policy-{version:06d}", policy_version=version))
        yield pool


def client_of(pool: EnginePool, *, max_tokens: int = 10) -> RolloutClient:
    plan = SamplingPlan(
        max_tokens=max_tokens,
        temperature=0.7,
        top_p=0.9,
        top_k=3,
        stop_token_ids=(1,),
        timeout_seconds=5.0,
        timeout_seconds_per_token=0.5,
        max_attempts=3,
    )
    instruments = RolloutInstruments.of(metrics.get_meter("tests"))
    return RolloutClient(pool, SingleTurn(), plan, instruments=instruments, clock=SystemClock())


def tasks(num_groups: int = 1, group_size: int = 1) -> list[RolloutTask]:
    return [
        RolloutTask(
            rollout_id=f"job/0/{group}/{sample}",
            group_id=f"job/0/{group}",
            prompt=Prompt(group, "", (2, 3, group), {}),
            key=PromptKey(bytes([group]) * 16),
        )
        for group in range(num_groups)
        for sample in range(group_size)
    ]


async def test_a_request_says_everything_the_engine_and_its_drafter_need() -> None:
    engine = ScriptedEngine("engine-0")
    async with pool_of(engine, version=3) as pool:
        (rollout,) = await client_of(pool).sample(tasks(), policy_version=3)
    (request,) = engine.requests
    sampling, extra = request.sampling_params, request.sampling_params.extra_args
    assert request.token_ids == [2, 3, 0]
    assert request.request_id.startswith("job/0/0/0#")
    assert (sampling.max_tokens, sampling.logprobs, sampling.detokenize) == (10, 0, False)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.9, 3)
    assert sampling.stop_token_ids == [1]
    assert (extra.srt_rollout_id, extra.srt_group_id) == ("job/0/0/0", "job/0/0")
    assert (extra.srt_policy_version, extra.srt_lane) == (3, "policy")
    assert extra.srt_num_prompt_tokens is None
    assert engine.timeouts == [10.0]
    assert rollout.token_array().tolist() == [7, 8]
    assert rollout.log_prob_array().tolist() == [-7.0, -8.0]
    assert rollout.finish_reason == "stop"


async def test_rollouts_come_back_in_the_order_of_their_tasks() -> None:
    engines = [ScriptedEngine(f"engine-{number}") for number in range(2)]
    async with pool_of(*engines, max_in_flight=3) as pool:
        rollouts = await client_of(pool).sample(tasks(4, 4), policy_version=0)
    assert [rollout.rollout_id for rollout in rollouts] == [task.rollout_id for task in tasks(4, 4)]
    assert max(engine.most_in_flight for engine in engines) <= 3
    assert sum(len(engine.requests) for engine in engines) == 16


async def test_a_failed_attempt_is_repeated_under_a_new_request_id_and_counted_once() -> None:
    engine = ScriptedEngine("engine-0", [unavailable(), unavailable()])
    async with pool_of(engine) as pool:
        (rollout,) = await client_of(pool).sample(tasks(), policy_version=0)
    ids = [request.request_id for request in engine.requests]
    assert len(set(ids)) == 3
    assert {request.sampling_params.extra_args.srt_rollout_id for request in engine.requests} == {
        "job/0/0/0"
    }
    assert rollout.num_retries == 2
    assert rollout.num_tokens == 2


async def test_two_processes_never_use_the_same_request_id() -> None:
    engine = ScriptedEngine("engine-0")
    async with pool_of(engine) as pool:
        for _ in range(2):
            await client_of(pool).sample(tasks(), policy_version=0)
    assert engine.requests[0].request_id != engine.requests[1].request_id


async def test_a_rollout_that_fails_too_often_stops_the_job() -> None:
    engine = ScriptedEngine("engine-0", [unavailable()] * 9)
    async with pool_of(engine) as pool:
        with pytest.raises(ExceptionGroup) as caught:
            await client_of(pool).sample(tasks(), policy_version=0)
    assert caught.group_contains(EngineUnavailable)
    assert len(engine.requests) == 3


async def test_a_refused_request_stops_the_job_at_once() -> None:
    engine = ScriptedEngine("engine-0", [EngineRefused(engine="engine-0", reason="no")])
    async with pool_of(engine) as pool:
        with pytest.raises(ExceptionGroup) as caught:
            await client_of(pool).sample(tasks(), policy_version=0)
    assert caught.group_contains(EngineRefused)


@pytest.mark.parametrize(
    "wrong",
    [
        GenerateResponse([]),
        answer([]),
        answer([], finish_reason="abort"),
        answer(num_logprobs=1),
        answer(finish_reason="error"),
        answer(version="2"),
        answer(version="default"),
    ],
    ids=["no choice", "no token", "empty abort", "log-probs", "reason", "stale", "restarted"],
)
async def test_an_unusable_answer_is_not_learnt_from(wrong: GenerateResponse) -> None:
    engine = ScriptedEngine("engine-0", [wrong])
    async with pool_of(engine, version=3) as pool:
        (rollout,) = await client_of(pool).sample(tasks(), policy_version=3)
    assert rollout.token_array().tolist() == [7, 8]
    assert rollout.num_retries == 1


@pytest.mark.parametrize(("version", "label"), [(0, "default"), (0, "0"), (3, "3")])
async def test_the_right_weights_are_recognised(version: int, label: str) -> None:
    engine = ScriptedEngine("engine-0", [answer([9], version=label)])
    async with pool_of(engine, version=version) as pool:
        (rollout,) = await client_of(pool).sample(tasks(), policy_version=version)
    assert rollout.num_retries == 0


async def test_an_aborted_rollout_is_continued_where_it_stopped() -> None:
    drafts = SpeculativeDecodingMetrics(2, 6, 1)
    engine = ScriptedEngine(
        "engine-0",
        [
            answer([7, 8, 9, 10], finish_reason="abort", drafts=drafts),
            answer([11, 1], drafts=SpeculativeDecodingMetrics(1, 4, 0)),
        ],
    )
    async with pool_of(engine) as pool:
        (rollout,) = await client_of(pool).sample(tasks(), policy_version=0)
    again = engine.requests[1]
    assert again.token_ids == [2, 3, 0, 7, 8, 9, 10]
    assert again.sampling_params.max_tokens == 6
    assert again.sampling_params.extra_args.srt_num_prompt_tokens == 3
    assert rollout.token_array().tolist() == [7, 8, 9, 10, 11, 1]
    assert rollout.log_prob_array().tolist() == [-7, -8, -9, -10, -11, -1]
    assert (rollout.num_draft_tokens, rollout.num_accepted_tokens) == (10, 1)
    assert rollout.num_request_steps == 3
    assert rollout.num_retries == 1


async def test_an_abort_after_the_last_allowed_token_is_the_end() -> None:
    engine = ScriptedEngine("engine-0", [answer(range(2, 6), finish_reason="abort")])
    async with pool_of(engine) as pool:
        (rollout,) = await client_of(pool, max_tokens=4).sample(tasks(), policy_version=0)
    assert rollout.finish_reason == "length"
    assert len(engine.requests) == 1


async def test_another_engine_takes_over_when_one_goes_away() -> None:
    gone, there = ScriptedEngine("engine-0", [unavailable()] * 9), ScriptedEngine("engine-1")
    async with pool_of(gone, there, max_in_flight=2) as pool:
        gone.load_errors = [unavailable()] * 10_000
        rollouts = await client_of(pool).sample(tasks(4, 2), policy_version=0)
    assert len(rollouts) == 8
    assert len(gone.requests) <= 2
    ids = Counter(request.sampling_params.extra_args.srt_rollout_id for request in there.requests)
    assert len(ids) == 8
    assert set(ids.values()) == {1}


async def test_an_engine_that_restarted_gets_the_weights_before_it_is_used() -> None:
    engine = ScriptedEngine("engine-0", [unavailable()])
    async with pool_of(engine, version=5) as pool:
        engine.policy_version = 0
        await client_of(pool).sample(tasks(), policy_version=5)
    assert [update.policy_version for update in engine.loads] == [5, 5]
    assert engine.policy_version == 5


async def test_an_engine_that_has_the_weights_is_not_sent_them_again() -> None:
    engine = ScriptedEngine("engine-0")
    engine.policy_version = 5
    async with pool_of(engine, version=5):
        assert engine.loads == []


async def test_publishing_does_not_wait_for_an_engine_that_is_away() -> None:
    away, there = ScriptedEngine("engine-0"), ScriptedEngine("engine-1")
    away.load_errors = [unavailable()] * 3
    async with pool_of(away, there, version=2) as pool:
        assert there.policy_version == 2
        await client_of(pool).sample(tasks(4), policy_version=2)
        await away.loaded.wait()


async def test_a_draining_engine_gets_no_work() -> None:
    draining, there = ScriptedEngine("engine-0"), ScriptedEngine("engine-1")
    draining.is_draining = True
    async with pool_of(draining, there) as pool:
        await client_of(pool).sample(tasks(4), policy_version=0)
    assert draining.requests == []


async def test_weights_that_cannot_be_loaded_stop_the_job() -> None:
    engine = ScriptedEngine("engine-0")
    engine.weight_errors = [unavailable()] * 5
    with pytest.raises(ExceptionGroup) as caught:
        async with pool_of(engine, version=1, attempts=3) as pool:
            await client_of(pool).sample(tasks(), policy_version=1)
    assert caught.group_contains(EngineUnavailable)
    assert len(engine.weight_errors) == 2


async def test_cancelled_rollouts_give_their_slots_back() -> None:
    engine = ScriptedEngine("engine-0")
    engine.gate.clear()
    engine.fill = 2
    async with pool_of(engine, max_in_flight=2) as pool:
        sampling = asyncio.create_task(client_of(pool).sample(tasks(1, 5), policy_version=0))
        await engine.is_full.wait()
        assert pool.num_pending == 3
        sampling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sampling
        assert pool.num_pending == 0
        engine.gate.set()
        assert len(await client_of(pool).sample(tasks(1, 5), policy_version=0)) == 5
