"""What is left when things end: keys of a deleted job in Redis, a job whose Redis is away, and an
operator that is killed while another stands by.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis

from support.cluster import ControlPlane
from support.jobs import JOB
from support.operator_process import OperatorProcess, PlayedKubelet, wait_for
from support.redis_server import RedisServer

FAILOVER_SECONDS = 20.0


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer.started() as server:
        yield server


def submit(plane: ControlPlane, name: str) -> dict[str, Any]:
    document = yaml.safe_load(JOB)
    document["metadata"] = {"name": name, "namespace": "default"}
    return plane.apply(document, "--server-side")


def leave(plane: ControlPlane, name: str) -> None:
    plane.kubectl("delete", "srtjob", name, "--wait=false")


def is_gone(plane: ControlPlane, name: str) -> bool:
    PlayedKubelet(plane, "default").sweep()
    kinds = "srtjobs,treecaches,rolloutpools,pods"
    return not [found for found in plane.names(kinds) if f"/{name}" in found]


def wait_until_gone(plane: ControlPlane, name: str) -> None:
    wait_for(lambda: is_gone(plane, name), f"{name} is gone")


def test_a_deleted_job_leaves_nothing_in_redis(
    plane: ControlPlane, redis: RedisServer, tmp_path: Path
) -> None:
    with OperatorProcess.started(plane, tmp_path, redis.url):
        uid = submit(plane, "clean")["metadata"]["uid"]
        wait_for(lambda: plane.names("pods", "-l", "srt-rl.dev/job-name=clean"), "its pods")
        client = Redis.from_url(redis.url)
        keys = [f"srt:{{{uid}:ctl}}:phase", f"srt:{{{uid}:ctl}}:window", f"srt:{{{uid}:3}}:floor"]
        for key in keys:
            client.set(key, b"x")
        client.xadd(f"srt:{{{uid}:15}}:log", {b"d": b"x"})
        client.set("srt:{another:ctl}:phase", b"x")
        leave(plane, "clean")
        wait_until_gone(plane, "clean")
        assert client.keys("*") == [b"srt:{another:ctl}:phase"]


def test_a_job_whose_redis_is_away_says_so_and_goes_when_told_to(
    plane: ControlPlane, redis: RedisServer, tmp_path: Path
) -> None:
    with OperatorProcess.started(plane, tmp_path, redis.url):
        submit(plane, "stuck")
        wait_for(lambda: plane.names("pods", "-l", "srt-rl.dev/job-name=stuck"), "its pods")
        redis.stop()
        leave(plane, "stuck")
        wait_for(
            lambda: "skip-cleanup=true" in plane.kubectl("get", "events", "-o", "yaml"),
            "an event that says what to do",
        )
        assert plane.names("srtjobs") == ["srtjob.srt-rl.dev/stuck"]
        plane.kubectl("annotate", "srtjob", "stuck", "srt-rl.dev/skip-cleanup=true")
        wait_for(lambda: plane.names("srtjobs") == [], "the job is gone")
        for cache in plane.names("treecaches"):
            plane.kubectl("annotate", cache, "srt-rl.dev/skip-cleanup=true")
        wait_until_gone(plane, "stuck")


def test_when_the_operator_is_killed_another_goes_on_within_twenty_seconds(
    plane: ControlPlane, redis: RedisServer, tmp_path: Path
) -> None:
    first = OperatorProcess(plane, tmp_path, redis.url, identity="operator-1")
    first.start()
    first.wait_until_up()
    wait_for(lambda: "leading" in first.log(), "the first one leads")
    with OperatorProcess.started(plane, tmp_path, redis.url, identity="operator-2") as second:
        submit(plane, "before")
        wait_for(lambda: plane.names("treecaches"), "the first one acts")
        assert "leading" not in second.log()
        first.kill()
        submit(plane, "after")
        seconds = wait_for(
            lambda: "treecache.srt-rl.dev/after" in plane.names("treecaches"), "it goes on"
        )
        assert plane.get("lease", "srt-operator")["spec"]["holderIdentity"] == "operator-2"
        assert seconds < FAILOVER_SECONDS
        for name in ("before", "after"):
            leave(plane, name)
            wait_until_gone(plane, name)
