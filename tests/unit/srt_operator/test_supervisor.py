"""The loop around the reconciler: a job from start to end on a back end in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from srt_common.clock import SystemClock
from srt_operator.constants import ConditionType, Phase, Reason
from srt_operator.processes import Lifecycle
from srt_operator.resources import SRTJob
from srt_operator.status import SRTJobStatus
from srt_operator.supervisor import Supervisor
from srt_operator.wishes import Wish, wish_of
from support.jobs import make_job
from support.memory_backend import MemoryBackend


@dataclass
class Run:
    """A supervised job; `react` plays the processes at each published status."""

    job: SRTJob
    react: Callable[[MemoryBackend], None]
    backend: MemoryBackend = field(default_factory=lambda: MemoryBackend(SystemClock()))
    statuses: list[SRTJobStatus] = field(default_factory=list)
    alive_at_end: list[str] = field(default_factory=list)
    wish: Wish = field(default_factory=Wish)

    def __post_init__(self) -> None:
        self.wish = wish_of(self.job)
        self.supervisor = Supervisor(
            job=self.job,
            backend=self.backend,
            clock=SystemClock(),
            publish=self._publish,
            before_stopping=self._before_stopping,
            progress=lambda: 2,
            wish=lambda: self.wish,
        )

    def _publish(self, status: SRTJobStatus) -> None:
        self.statuses.append(status)
        self.react(self.backend)

    async def _before_stopping(self) -> None:
        states = self.backend.statuses.items()
        self.alive_at_end = [name for name, status in states if status.is_alive]


def become_ready(backend: MemoryBackend) -> None:
    for name, status in list(backend.statuses.items()):
        if status.lifecycle is Lifecycle.STARTING:
            backend.ready(name)


def then_train(backend: MemoryBackend) -> None:
    become_ready(backend)
    if "trainer" in backend.statuses and backend.statuses["trainer"].is_alive:
        backend.end("trainer", 0)


async def test_a_job_runs_to_its_end_and_leaves_nothing_running() -> None:
    run = Run(make_job(), then_train)
    status = await run.supervisor.run()
    assert status.phase is Phase.COMPLETE
    assert run.backend.started[0] == "server"
    assert run.backend.started[-1] == "trainer"
    assert not any(s.is_alive for s in run.backend.statuses.values())
    assert (status.progress.step, status.progress.steps) == (2, 3)


async def test_what_must_be_read_is_read_while_processes_still_run() -> None:
    run = Run(make_job(), then_train)
    await run.supervisor.run()
    assert "rollout-0" in run.alive_at_end
    assert "trainer" not in run.alive_at_end


async def test_a_wish_to_stop_ends_everything() -> None:
    def stop_when_training(backend: MemoryBackend) -> None:
        become_ready(backend)
        if "trainer" in backend.statuses:
            run.supervisor.stop_requested.set()

    run = Run(make_job(), stop_when_training)
    status = await run.supervisor.run()
    assert status.phase not in (Phase.COMPLETE, Phase.FAILED)
    assert not any(s.is_alive for s in run.backend.statuses.values())


async def test_a_broken_publisher_still_leaves_nothing_running() -> None:
    def fail_when_engines_run(backend: MemoryBackend) -> None:
        become_ready(backend)
        if "rollout-0" in backend.statuses:
            raise RuntimeError("disk full")

    run = Run(make_job(), fail_when_engines_run)
    with pytest.raises(RuntimeError):
        await run.supervisor.run()
    assert not any(s.is_alive for s in run.backend.statuses.values())


async def test_a_suspended_job_starts_nothing() -> None:
    run = Run(make_job(spec__suspend="true"), become_ready)
    assert (await run.supervisor.run()).phase is Phase.SUSPENDED
    assert run.backend.started == []
    [status] = run.statuses
    assert {process.state for process in status.processes} == {"Absent"}


async def test_a_wish_to_suspend_stops_a_job_that_runs() -> None:
    def suspend_when_training(backend: MemoryBackend) -> None:
        become_ready(backend)
        if "trainer" in backend.statuses:
            run.wish = Wish(is_suspended=True)

    run = Run(make_job(), suspend_when_training)
    status = await run.supervisor.run()
    assert status.phase is Phase.SUSPENDED
    assert not any(s.is_alive for s in run.backend.statuses.values())


async def test_a_job_that_a_user_gives_up_fails() -> None:
    def cancel_when_training(backend: MemoryBackend) -> None:
        become_ready(backend)
        if "trainer" in backend.statuses:
            run.wish = Wish(is_cancelled=True)

    run = Run(make_job(), cancel_when_training)
    status = await run.supervisor.run()
    assert status.phase is Phase.FAILED
    [failed] = [c for c in status.conditions if c.type is ConditionType.FAILED]
    assert failed.reason is Reason.CANCELLED
    assert not any(s.is_alive for s in run.backend.statuses.values())
