"""A bubble opened by the real operator and filled by a real worker, when the operator is killed and
when the Redis-protocol server is: run-ahead ends in time, people are told, everything comes back.

The operator finds the played engine under the name that a cluster would resolve, in a mount
namespace with its own hosts file.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from srt_common.coordination import (
    BUBBLE_TTL_SECONDS,
    Coordination,
    Phase,
    PhaseReport,
    WindowPrompt,
)
from srt_common.errors import CoordinationUnavailable
from srt_common.keys import PromptKey
from srt_runahead.worker import LoopThread
from support.cluster import ControlPlane
from support.operator_process import OperatorProcess
from support.redis_server import RedisServer
from support.runahead_process import Engine, WorkerProcess, wait_until
from support.stage import Stage

NAMESPACE, JOB, ENGINE = "bubbles", "ahead", "ahead-rollout-0"
HOST, PORT = "127.77.0.2", 8000
ABORT_SECONDS = 0.5
WINDOW_SECONDS = 30.0
"""Of the first idle window: later ones are taken to last as long."""
PATIENT = 120.0

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("unshare") is None,
        reason="a mount namespace takes root and unshare",
    ),
]


class PlayedTrainer:
    """Says what a trainer says, every half second, whether the server answers or not."""

    def __init__(self, server: RedisServer, job_id: str) -> None:
        self._thread = LoopThread()
        self._coordination = Coordination.from_url(server.url, job=job_id)
        self._report = PhaseReport("train", 0, 0, 0, time.time())
        self._saying = asyncio.run_coroutine_threadsafe(self._say_often(), self._thread.loop)

    def begin(self, step: int) -> None:
        """A step's rollouts wait for engines; the next steps' prompts are known."""
        prompts = [WindowPrompt(PromptKey(bytes([step]) * 16), step + 1, 4, max_tokens=20)]
        self._thread.call(self._coordination.publish_window(prompts, [[1, 2, 3]]))
        self.say("rollout", step, num_pending=4)

    def say(self, phase: Phase, step: int, *, num_pending: int = 0) -> None:
        self._report = PhaseReport(phase, step, step, num_pending, time.time())

    def end(self) -> None:
        self._saying.cancel()
        self._thread.call(self._coordination.close())
        self._thread.close()

    async def _say_often(self) -> None:
        while True:
            now = self._report
            report = PhaseReport(
                now.phase, now.step, now.policy_version, now.num_pending, time.time()
            )
            with suppress(CoordinationUnavailable):
                await self._coordination.publish_phase(report)
            await asyncio.sleep(0.5)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A job that trains, its one engine and what runs ahead on it."""

    stage: Stage
    operator: OperatorProcess
    server: RedisServer
    engine: Engine
    worker: WorkerProcess
    trainer: PlayedTrainer
    job_id: str

    def stored(self) -> set[str]:
        """What lies on the server of the job."""
        prefix = f"srt:{{{self.job_id}:ctl}}:"
        with Redis.from_url(self.server.url) as client:
            return {key.decode().removeprefix(prefix) for key in client.keys(f"{prefix}*")}

    def _is_served(self) -> bool:
        self.worker.revive()
        return self.worker.is_serving()

    def run_ahead(self, step: int) -> None:
        """Have the trainer sample and then train, until the engine runs ahead."""
        wait_until(self._is_served, "a worker", seconds=PATIENT)
        self.trainer.begin(step)
        time.sleep(2)
        self.trainer.say("train", step)
        wait_until(lambda: self.engine.vllm.num_running > 0, "run-ahead", seconds=PATIENT)
        assert f"bubble:{ENGINE}" in self.stored()


@pytest.fixture(scope="module")
def scene(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    plane.kubectl("create", "namespace", NAMESPACE)
    stage = Stage(plane, NAMESPACE)
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{HOST} {ENGINE}.ahead-rollout.{NAMESPACE}.svc\n")
    bind = 'mount --bind "$0" /etc/hosts && exec "$@"'
    with RedisServer.started() as server:
        operator = OperatorProcess(
            plane, folder, server.url, enter=("unshare", "--mount", "sh", "-c", bind, str(hosts))
        )
        operator.start()
        try:
            operator.wait_until_up()
            yield from _scene(stage, operator, server, folder)
        finally:
            operator.kill()


def _scene(
    stage: Stage, operator: OperatorProcess, server: RedisServer, folder: Path
) -> Iterator[Scene]:
    bubble = {"openAfterSeconds": 0.2, "minRemainingSeconds": 0.5, "learnSteps": 1}
    stage.apply(JOB, rollout__template__replicas=1, runAhead__bubble=bubble)
    job_id = stage.job(JOB)["metadata"]["uid"]
    trainer = PlayedTrainer(server, job_id)
    try:
        with (
            Engine.served(folder / "gateway", name=ENGINE, host=HOST, port=PORT) as engine,
            WorkerProcess.started(server, engine, folder, job=job_id) as worker,
        ):
            stage.kubelet.make_ready(1, role="tree-cache")
            stage.kubelet.make_ready(1, role="rollout")
            stage.kubelet.make_ready(1, role="trainer")
            stage.until("srtjob", JOB, "Ready")
            time.sleep(WINDOW_SECONDS)
            yield Scene(
                stage=stage,
                operator=operator,
                server=server,
                engine=engine,
                worker=worker,
                trainer=trainer,
                job_id=job_id,
            )
    finally:
        trainer.end()


def test_a_server_that_is_killed_is_told_of_and_everything_comes_back(scene: Scene) -> None:
    stage = scene.stage
    before = stage.names("pods,statefulsets,jobs,services")
    scene.run_ahead(step=1)
    scene.server.stop()
    scene.engine.wait_running(0, seconds=BUBBLE_TTL_SECONDS)
    condition = stage.until("srtjob", JOB, "TreeCacheReady", "False")
    assert condition["reason"] == "RedisUnavailable"
    assert condition["message"].startswith("the Redis-protocol server does not answer (")
    assert stage.condition("srtjob", JOB, "Ready")["message"] == condition["message"]
    assert stage.job(JOB)["status"]["phase"] == "Running"
    scene.server.start()
    stage.until("srtjob", JOB, "TreeCacheReady")
    assert stage.until("srtjob", JOB, "Ready")["reason"] == "AllReady"
    scene.run_ahead(step=2)
    assert {"phase", "window", "epoch"} <= scene.stored()
    wait_until(
        lambda: stage.job(JOB)["status"]["progress"]["display"] == "2/3",
        "progress",
        seconds=PATIENT,
    )
    assert {"NotTreeCacheReady", "TreeCacheReady"} <= stage.reasons()
    assert stage.names("pods,statefulsets,jobs,services") == before
    assert "Traceback" not in scene.operator.log()


def test_when_the_operator_is_killed_run_ahead_ends_within_three_seconds(scene: Scene) -> None:
    scene.run_ahead(step=3)
    scene.operator.kill()
    killed_at = time.monotonic()
    wait_until(
        lambda: f"bubble:{ENGINE}" not in scene.stored(), "no bubble", seconds=BUBBLE_TTL_SECONDS
    )
    scene.engine.wait_running(0, seconds=ABORT_SECONDS)
    assert time.monotonic() - killed_at < BUBBLE_TTL_SECONDS + ABORT_SECONDS
    assert scene.stage.job(JOB)["status"]["phase"] == "Running"
