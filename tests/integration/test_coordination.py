"""Phases, window, bubbles, claims, dead letters and leases on a real server.

What must not outlive its holder has a time to live; what is handed out twice would be wrong is
handed out once; a server that is away is an error of ours within its time limit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from redis.asyncio import Redis

from srt_common.coordination import (
    BUBBLE_TTL_SECONDS,
    CLAIM_TTL_SECONDS,
    LEASE_TTL_SECONDS,
    MAX_DEAD_LETTERS,
    PROMPT_TTL_SECONDS,
    Bubble,
    Coordination,
    PhaseReport,
    ShardLease,
    WindowPrompt,
)
from srt_common.errors import CoordinationUnavailable, LeaseLost
from srt_common.keys import PromptKey
from srt_common.store.redis_log import connect
from support.redis_server import RedisServer

TIMEOUT_SECONDS = 0.5
JOB = "tiny-math"
PREFIX = "srt:{tiny-math:ctl}:"
REPORT = PhaseReport(phase="train", step=3, policy_version=2, num_pending=0, reported_at_unix=1.5)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer.started() as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    """The same server behind the coordination's back, empty."""
    redis = connect(server.url, timeout_seconds=TIMEOUT_SECONDS)
    await redis.flushall()
    yield redis
    await redis.aclose()


@pytest.fixture
async def job(server: RedisServer, redis: Redis) -> AsyncIterator[Coordination]:
    job = Coordination.from_url(server.url, job=JOB, timeout_seconds=TIMEOUT_SECONDS)
    yield job
    await job.close()


def prompt(number: int, step: int = 0) -> WindowPrompt:
    return WindowPrompt(
        prompt_key=number.to_bytes(16, "big"),
        step=step,
        num_rollouts=8,
        max_tokens=320,
        temperature=0.7,
        stop_token_ids=(1, 2),
    )


async def seconds_to_live(redis: Redis, key: str) -> float:
    return await redis.pttl(key) / 1000


async def test_a_phase_is_read_as_it_was_reported(job: Coordination) -> None:
    assert await job.phase() is None
    await job.publish_phase(REPORT)
    assert await job.phase() == REPORT


async def test_the_window_is_replaced_as_a_whole_and_prompts_stay_a_while(
    job: Coordination, redis: Redis
) -> None:
    assert await job.window() == []
    first = [prompt(1), prompt(2, step=1)]
    await job.publish_window(first, [[5, 70_000], [6]])
    assert await job.window() == first
    await job.publish_window([prompt(3)], [[7]])
    assert await job.window() == [prompt(3)]
    assert await job.prompt_tokens(PromptKey(first[0].prompt_key)) == [5, 70_000]
    key = PREFIX + "prompt:" + first[0].prompt_key.hex()
    assert PROMPT_TTL_SECONDS - 5 < await seconds_to_live(redis, key) <= PROMPT_TTL_SECONDS
    assert await job.prompt_tokens(PromptKey(bytes(16))) is None


async def test_a_window_needs_a_text_for_every_prompt(job: Coordination) -> None:
    with pytest.raises(ValueError):
        await job.publish_window([prompt(1)], [])
    assert await job.window() == []


async def test_epochs_only_grow_for_all_who_ask_at_once(job: Coordination) -> None:
    epochs = sorted(await asyncio.gather(*(job.next_epoch() for _ in range(20))))
    assert epochs == list(range(epochs[0], epochs[0] + 20))


async def test_epochs_grow_on_when_the_server_has_forgotten_them(job: Coordination) -> None:
    before = await job.next_epoch()
    await job.forget_job()
    await asyncio.sleep(0.01)
    assert await job.next_epoch() > before


async def test_a_bubble_dies_with_its_holder(job: Coordination, redis: Redis) -> None:
    bubble = Bubble(epoch=4, deadline_at_unix=99.5)
    assert await job.bubble("engine-0") is None
    await job.hold_bubble("engine-0", bubble)
    assert await job.bubble("engine-0") == bubble
    assert await job.bubble("engine-1") is None
    key = PREFIX + "bubble:engine-0"
    assert BUBBLE_TTL_SECONDS - 1 < await seconds_to_live(redis, key) <= BUBBLE_TTL_SECONDS
    await redis.pexpire(key, 1)
    await asyncio.sleep(0.05)
    assert await job.bubble("engine-0") is None


async def test_holding_a_bubble_again_gives_it_its_whole_time(
    job: Coordination, redis: Redis
) -> None:
    await job.hold_bubble("engine-0", Bubble(4, 99.5))
    await redis.pexpire(PREFIX + "bubble:engine-0", 100)
    await job.hold_bubble("engine-0", Bubble(4, 99.5))
    assert await seconds_to_live(redis, PREFIX + "bubble:engine-0") > BUBBLE_TTL_SECONDS - 1


async def test_a_closed_bubble_is_gone_at_once(job: Coordination) -> None:
    await job.hold_bubble("engine-0", Bubble(4, 99.5))
    await job.close_bubble("engine-0")
    assert await job.bubble("engine-0") is None
    await job.close_bubble("engine-0")


async def test_a_sample_is_claimed_by_one_task_which_may_ask_again(
    job: Coordination, redis: Redis
) -> None:
    asked = (job.claim_sample("00ff", 1, 2, f"task-{number}") for number in range(10))
    claims = await asyncio.gather(*asked)
    assert sum(claims) == 1
    winner = claims.index(True)
    assert await job.claim_sample("00ff", 1, 2, f"task-{winner}")
    assert await job.claim_sample("00ff", 2, 2, "another")
    assert await job.claim_sample("00ff", 1, 3, "another")
    ttl = await seconds_to_live(redis, PREFIX + "claim:00ff:1:2:0")
    assert 0 < ttl <= CLAIM_TTL_SECONDS


async def test_dead_letters_are_kept_newest_first_and_bounded(job: Coordination) -> None:
    assert await job.dead_letters() == []
    for number in range(MAX_DEAD_LETTERS + 3):
        await job.bury(b"%d" % number)
    letters = await job.dead_letters()
    assert len(letters) == MAX_DEAD_LETTERS
    assert letters[0] == b"%d" % (MAX_DEAD_LETTERS + 2)


async def test_a_forgotten_job_leaves_only_what_expires_by_itself(
    job: Coordination, redis: Redis
) -> None:
    await job.publish_phase(REPORT)
    await job.publish_window([prompt(1)], [[5]])
    await job.next_epoch()
    await job.hold_bubble("engine-0", Bubble(1, 2.0))
    await job.claim_sample("00ff", 1, 2, "task")
    await job.bury(b"letter")
    await job.forget_job()
    assert await job.phase() is None
    assert await job.window() == []
    for key in await redis.keys("*"):
        assert await redis.pttl(key) > 0, key


async def test_jobs_do_not_see_each_other(server: RedisServer, job: Coordination) -> None:
    other = Coordination.from_url(server.url, job="other", timeout_seconds=TIMEOUT_SECONDS)
    await job.publish_phase(REPORT)
    assert await other.phase() is None
    await other.close()


# -- shard leases


def lease(redis: Redis, holder: str, shard: int = 3) -> ShardLease:
    return ShardLease(redis, cache="c", shard=shard, holder=holder)


async def test_a_lease_has_one_holder(redis: Redis) -> None:
    first, second = lease(redis, "a"), lease(redis, "b")
    assert await first.acquire()
    assert not await second.acquire()
    assert await lease(redis, "b", shard=4).acquire()
    await first.renew()
    assert await seconds_to_live(redis, "srt:{c:3}:owner") > LEASE_TTL_SECONDS - 1


async def test_of_many_who_ask_at_once_one_gets_the_lease(redis: Redis) -> None:
    leases = [lease(redis, f"replica-{number}") for number in range(10)]
    assert sum(await asyncio.gather(*(each.acquire() for each in leases))) == 1


async def test_a_released_lease_is_free_at_once(redis: Redis) -> None:
    first, second = lease(redis, "a"), lease(redis, "b")
    await first.acquire()
    await first.release()
    assert await second.acquire()


async def test_an_expired_lease_is_taken_over_with_a_larger_epoch_and_its_holder_learns_of_it(
    redis: Redis,
) -> None:
    first, second = lease(redis, "a"), lease(redis, "b")
    await first.acquire()
    await redis.delete("srt:{c:3}:owner")
    assert await second.acquire()
    assert second.epoch > first.epoch
    with pytest.raises(LeaseLost) as caught:
        await first.renew()
    assert caught.value.epoch == first.epoch
    await second.renew()


async def test_the_former_holder_cannot_release_what_is_no_longer_its_own(redis: Redis) -> None:
    first, second = lease(redis, "a"), lease(redis, "b")
    await first.acquire()
    await redis.delete("srt:{c:3}:owner")
    await second.acquire()
    await first.release()
    await second.renew()


async def test_a_restarted_holder_of_the_same_name_is_another_holder(redis: Redis) -> None:
    before, after = lease(redis, "a"), lease(redis, "a")
    await before.acquire()
    assert not await after.acquire()
    await redis.delete("srt:{c:3}:owner")
    await after.acquire()
    with pytest.raises(LeaseLost):
        await before.renew()


# -- a server that is away


@pytest.mark.parametrize("trouble", ["frozen", "stopped"])
async def test_a_silent_server_is_an_error_of_ours_in_time(trouble: str) -> None:
    with RedisServer.started() as server:
        job = Coordination.from_url(server.url, job=JOB, timeout_seconds=TIMEOUT_SECONDS)
        redis = connect(server.url, timeout_seconds=TIMEOUT_SECONDS)
        held = lease(redis, "a")
        await held.acquire()
        await job.publish_phase(REPORT)
        server.freeze() if trouble == "frozen" else server.stop()
        calls: list[Callable[[], Awaitable[object]]] = [
            job.phase,
            job.next_epoch,
            lambda: job.publish_window([prompt(1)], [[1]]),
            lambda: job.bubble("engine-0"),
            held.renew,
            held.acquire,
        ]
        for call in calls:
            started = time.monotonic()
            with pytest.raises(CoordinationUnavailable):
                await call()
            assert time.monotonic() - started < 2 * TIMEOUT_SECONDS + 0.3
        await job.close()
        await redis.aclose()


async def test_what_another_release_left_is_as_if_nobody_answered(
    job: Coordination, redis: Redis
) -> None:
    """Readers of bubbles and phases know what to do then: nothing."""
    for key in ("phase", "window", "bubble:rollout-0"):
        await redis.set(PREFIX + key, b"\x93\x01\x02\x03")
    for ask in (job.phase, job.window, lambda: job.bubble("rollout-0")):
        with pytest.raises(CoordinationUnavailable, match="cannot be read"):
            await ask()
