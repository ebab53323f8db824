"""One behaviour suite for every back end of the operator: what `Backend` promises.

Local processes are real ones under their guardians; those of the static back end are seen or not
seen; the third implementation is in memory.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from srt_common.clock import SystemClock
from srt_operator.backends.base import Backend
from srt_operator.backends.local import LocalBackend
from srt_operator.backends.static import Sight, StaticBackend
from srt_operator.layout import RunLayout
from srt_operator.manifests.process import LocalProcess
from srt_operator.processes import Component, Lifecycle, Member, ProcessStatus
from srt_operator.reconciler import Start, Stop
from support.memory_backend import MemoryBackend

PATIENCE_SECONDS = 15.0
SERVER = Member("server", Component.SERVER, 0)
TRAINER = Member("trainer", Component.TRAINER, 0)

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"


@dataclass
class Stage:
    """A back end, and how its processes are made to do things."""

    backend: Backend
    make_ready: Callable[[str], Awaitable[None]]
    make_end: Callable[[str, int], Awaitable[None]]

    async def until(self, name: str, lifecycle: Lifecycle) -> ProcessStatus:
        """Wait until a process has come so far."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                status = (await self.backend.observe()).get(name)
                if status is not None and status.lifecycle is lifecycle:
                    return status
                await self.backend.wait_for_change(0.2)


class LocalStage:
    """Processes that end when a file with their exit status appears."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.layout = RunLayout(folder)
        self.layout.logs.mkdir()

    def describe(self, member: Member) -> LocalProcess:
        order = self._folder / f"{member.name}.order"
        code = (
            "import pathlib, sys, time\n"
            f"order = pathlib.Path({str(order)!r})\n"
            "while not order.exists(): time.sleep(0.02)\n"
            "code = int(order.read_text()); order.unlink(); sys.exit(code)"
        )
        return LocalProcess(
            name=member.name, command=(sys.executable, "-S", "-c", code), grace_seconds=1.0
        )

    async def order(self, name: str, exit_code: int) -> None:
        file = self._folder / f"{name}.order"
        file.with_suffix(".new").write_text(str(exit_code))
        file.with_suffix(".new").rename(file)


class StaticStage:
    """Processes that somebody else runs: they are seen, or not, or have finished."""

    def __init__(self) -> None:
        self._sights: dict[str, Sight] = {}
        looks = {name: partial(self._look, name) for name in ("server", "trainer")}
        self.backend = StaticBackend(looks, clock=SystemClock(), lost_after_seconds=0.1)

    async def _look(self, name: str) -> Sight:
        return self._sights.get(name, Sight.ABSENT)

    async def ready(self, name: str) -> None:
        self._sights[name] = Sight.READY

    async def end(self, name: str, exit_code: int) -> None:
        self._sights[name] = Sight.FINISHED if exit_code == 0 else Sight.ABSENT


@pytest.fixture(params=["local", "memory", "static"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    async def nothing(_name: str) -> None: ...

    if request.param == "local":
        site = LocalStage(tmp_path)
        local = LocalBackend(site.describe, site.layout, clock=SystemClock())
        yield Stage(local, nothing, site.order)
        await local.close()
        return
    if request.param == "static":
        given = StaticStage()
        yield Stage(given.backend, given.ready, given.end)
        await given.backend.close()
        return
    memory = MemoryBackend(SystemClock())

    async def ready(name: str) -> None:
        memory.ready(name)

    async def end(name: str, exit_code: int) -> None:
        memory.end(name, exit_code)

    yield Stage(memory, ready, end)


async def test_a_process_that_was_never_started_is_absent(stage: Stage) -> None:
    assert await stage.backend.observe() == {}


async def test_a_started_process_gets_ready(stage: Stage) -> None:
    await stage.backend.apply([Start(SERVER)])
    assert (await stage.backend.observe())["server"].is_alive
    await stage.make_ready("server")
    status = await stage.until("server", Lifecycle.READY)
    assert (status.num_starts, status.exit_code) == (1, None)


async def test_the_exit_status_of_a_process_is_seen(stage: Stage) -> None:
    await stage.backend.apply([Start(TRAINER)])
    await stage.make_ready("trainer")
    await stage.until("trainer", Lifecycle.READY)
    await stage.make_end("trainer", 1)
    assert (await stage.until("trainer", Lifecycle.EXITED)).exit_code == 1


async def test_a_trainer_that_has_done_its_work_has_status_0(stage: Stage) -> None:
    await stage.backend.apply([Start(TRAINER)])
    await stage.make_ready("trainer")
    await stage.until("trainer", Lifecycle.READY)
    await stage.make_end("trainer", 0)
    assert (await stage.until("trainer", Lifecycle.EXITED)).exit_code == 0


async def test_starts_of_a_process_are_counted(stage: Stage) -> None:
    for number in (1, 2):
        await stage.backend.apply([Start(TRAINER)])
        await stage.make_ready("trainer")
        assert (await stage.until("trainer", Lifecycle.READY)).num_starts == number
        await stage.make_end("trainer", 1)
        await stage.until("trainer", Lifecycle.EXITED)


async def test_an_action_twice_is_an_action_once(stage: Stage) -> None:
    await stage.backend.apply([Start(SERVER), Start(SERVER)])
    await stage.backend.apply([Start(SERVER)])
    assert (await stage.backend.observe())["server"].num_starts == 1
    await stage.backend.apply([Stop("server"), Stop("server"), Stop("nobody")])
    await stage.until("server", Lifecycle.EXITED)
    await stage.backend.apply([Stop("server")])
    assert (await stage.backend.observe())["server"].lifecycle is Lifecycle.EXITED


async def test_a_stopped_process_ends(stage: Stage) -> None:
    await stage.backend.apply([Start(SERVER)])
    await stage.backend.apply([Stop("server")])
    assert (await stage.until("server", Lifecycle.EXITED)).exit_code not in (None, 0)


async def test_times_of_changes_are_told(stage: Stage) -> None:
    before = SystemClock().unix()
    await stage.backend.apply([Start(SERVER)])
    assert before <= (await stage.backend.observe())["server"].since <= SystemClock().unix()


async def test_waiting_ends_with_a_change_or_in_time(stage: Stage) -> None:
    await stage.backend.apply([Start(SERVER)])
    await stage.make_ready("server")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await stage.backend.wait_for_change(60.0)
        await stage.backend.wait_for_change(0.05)
        await stage.backend.wait_for_change(0.05)


async def test_after_closing_nothing_runs(stage: Stage) -> None:
    await stage.backend.apply([Start(SERVER), Start(TRAINER)])
    await stage.make_ready("server")
    await stage.until("server", Lifecycle.READY)
    await stage.backend.close()
    await stage.backend.close()
    statuses = await stage.backend.observe()
    assert not any(status.is_alive for status in statuses.values())


async def test_a_given_process_that_is_lost_says_so() -> None:
    given = StaticStage()
    stage = Stage(given.backend, given.ready, given.end)
    await stage.backend.apply([Start(TRAINER)])
    await stage.make_ready("trainer")
    await stage.until("trainer", Lifecycle.READY)
    await stage.make_end("trainer", 1)
    assert (await stage.until("trainer", Lifecycle.EXITED)).detail == "not seen for 0.1 s"
    await stage.backend.close()


async def test_a_local_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    layout.logs.mkdir()
    process = LocalProcess(
        name="server", command=(sys.executable, "-S", "-c", STUBBORN), grace_seconds=0.3
    )
    backend = LocalBackend(lambda _: process, layout, clock=SystemClock())
    stage = Stage(backend, lambda _: asyncio.sleep(0), lambda *_: asyncio.sleep(0))
    await backend.apply([Start(SERVER)])
    await stage.until("server", Lifecycle.READY)
    await asyncio.sleep(0.3)  # until it has said that it ignores the signal
    await backend.apply([Stop("server")])
    assert (await stage.until("server", Lifecycle.EXITED)).exit_code == 137


async def test_output_of_all_starts_is_kept_and_secrets_lie_in_private_files(
    tmp_path: Path,
) -> None:
    layout = RunLayout(tmp_path)
    layout.logs.mkdir()
    secret = layout.private / "token"
    process = LocalProcess(
        name="server",
        command=("sh", "-c", f'echo "$GREETING $(cat {secret})"'),
        environment={"GREETING": "hello there"},
        files={secret: "12345"},
    )
    backend = LocalBackend(lambda _: process, layout, clock=SystemClock())
    stage = Stage(backend, lambda _: asyncio.sleep(0), lambda *_: asyncio.sleep(0))
    for _ in range(2):
        await backend.apply([Start(SERVER)])
        await stage.until("server", Lifecycle.EXITED)
    await backend.close()
    assert layout.log_of("server").read_text() == "hello there 12345\n" * 2
    assert secret.stat().st_mode & 0o777 == 0o600
    assert layout.private.stat().st_mode & 0o777 == 0o700


async def test_a_program_that_does_not_exist_is_an_exit(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    layout.logs.mkdir()
    process = LocalProcess(name="server", command=("/nonexistent",))
    backend = LocalBackend(lambda _: process, layout, clock=SystemClock())
    stage = Stage(backend, lambda _: asyncio.sleep(0), lambda *_: asyncio.sleep(0))
    await backend.apply([Start(SERVER)])
    assert (await stage.until("server", Lifecycle.EXITED)).exit_code == 127
    await backend.close()
