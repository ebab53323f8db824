"""Chunks reach the queue of their engine on a real server; a broker that is away drops them."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from srt_common.errors import CoordinationUnavailable
from srt_common.messages.runahead import RunaheadJob
from srt_operator.runahead.dispatch import CeleryDispatcher
from support.redis_server import RedisServer

pytestmark = pytest.mark.processes


def job(sample: int, *, engine: str = "rollout-0") -> RunaheadJob:
    return RunaheadJob(
        job="sums",
        engine=engine,
        epoch=1,
        prompt_key="ab" * 16,
        sample=sample,
        policy_version=3,
        chunk_tokens=16,
        deadline_at_unix=time.time() + 30,
    )


async def test_chunks_wait_in_the_queue_of_their_engine() -> None:
    with RedisServer.started() as server:
        dispatcher = CeleryDispatcher(server.broker_url, job="sums")
        assert await dispatcher.num_queued("rollout-0") == 0
        assert await dispatcher.send([job(0), job(1), job(2, engine="rollout-1")]) == 3
        assert await dispatcher.num_queued("rollout-0") == 2
        assert await dispatcher.num_queued("rollout-1") == 1
        await dispatcher.close()


@pytest.mark.timeout(60)
async def test_a_broker_that_is_gone_drops_chunks_and_says_so() -> None:
    with RedisServer.started() as server:
        dispatcher = CeleryDispatcher(server.broker_url, job="sums")
        assert await dispatcher.send([job(0)]) == 1
        server.stop()
        assert await dispatcher.send([job(1)]) == 0
        with pytest.raises(CoordinationUnavailable):
            await dispatcher.num_queued("rollout-0")
        server.start()
        assert await dispatcher.send([job(2)]) == 1
        assert await dispatcher.num_queued("rollout-0") == 1
        await dispatcher.close()


@pytest.mark.timeout(60)
async def test_a_broker_that_goes_away_between_two_questions_is_no_answer() -> None:
    """The client's own errors, on a connection that stood, say the same as one that fails."""
    with RedisServer.started() as server:
        dispatcher = CeleryDispatcher(server.broker_url, job="sums")
        assert await dispatcher.num_queued("rollout-0") == 0
        server.stop()
        with pytest.raises(CoordinationUnavailable):
            await dispatcher.num_queued("rollout-0")
        with pytest.raises(CoordinationUnavailable):
            await dispatcher.forget(["rollout-0"])
        assert await dispatcher.served_engines(["rollout-0"]) == frozenset()
        await dispatcher.close()


@pytest.mark.timeout(60)
async def test_what_another_process_sent_is_forgotten_with_its_bindings() -> None:
    """An operator that leads since a moment ago has sent nothing itself."""
    with RedisServer.started() as server:
        before = CeleryDispatcher(server.broker_url, job="sums")
        assert await before.send([job(0), job(1, engine="rollout-1")]) == 2
        await before.close()
        redis = Redis.from_url(server.url)
        assert len(redis.keys("*srt.ra.*")) > 2
        now = CeleryDispatcher(server.broker_url, job="sums")
        await now.forget(["rollout-0", "rollout-1"])
        await now.close()
        assert redis.keys("*srt.ra.*") == []
        redis.close()
