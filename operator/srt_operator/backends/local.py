"""Carries actions out as plain processes of this machine: ``srt run job.yaml``.

* Each process runs under a guardian in its own session; its output goes to ``logs/<name>.log``.
* A guardian ends its process, with all below it, when we ask and when we are gone (even killed).
* Files with secrets are readable by the owner only; no secret is on a command line.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from srt_common.clock import Clock
from srt_operator.backends import guardian
from srt_operator.backends.readiness import is_ready
from srt_operator.layout import RunLayout
from srt_operator.manifests.process import LocalProcess
from srt_operator.processes import Lifecycle, Member, ProcessStatus
from srt_operator.reconciler import Action, Start

PROBE_SECONDS: Final = 0.2
_FORCE_AFTER_SECONDS: Final = 5.0
"""Past a process's grace: the guardian itself is killed then, which takes its process along."""


@dataclass(slots=True)
class _Running:
    """One start of one process."""

    what: LocalProcess
    handle: asyncio.subprocess.Process
    watch: asyncio.Task[None]


class LocalBackend:
    """A job's processes on this machine. Belongs to one event loop."""

    def __init__(
        self,
        describe: Callable[[Member], LocalProcess],
        layout: RunLayout,
        *,
        clock: Clock,
        inherited_files: Sequence[int] = (),
    ) -> None:
        """No process is started yet.

        Args:
            describe: how to run a member.
            layout: where logs go; the folder exists.
            clock: of the statuses' times (unix).
            inherited_files: descriptors that every process keeps open, such as the run's lock.
        """
        self._describe = describe
        self._layout = layout
        self._clock = clock
        self._inherited_files = tuple(inherited_files)
        self._statuses: dict[str, ProcessStatus] = {}
        self._running: dict[str, _Running] = {}
        self._changed = asyncio.Event()

    async def observe(self) -> Mapping[str, ProcessStatus]:
        """How the processes stand now."""
        return dict(self._statuses)

    async def apply(self, actions: Sequence[Action]) -> None:
        """Carry out actions in their order."""
        for action in actions:
            if isinstance(action, Start):
                await self._start(action.member)
            else:
                self._stop(action.name)

    async def wait_for_change(self, timeout_seconds: float) -> None:
        """Return when a process became ready or ended, at the latest after ``timeout_seconds``."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_seconds)
        self._changed.clear()

    async def close(self) -> None:
        """End what still runs at once: guardians see us gone and give little grace."""
        for running in self._running.values():
            if running.handle.stdin is not None:
                running.handle.stdin.close()
        watches = [running.watch for running in self._running.values()]
        await asyncio.gather(*watches, return_exceptions=True)

    def pid(self, name: str) -> int | None:
        """Process id of the guardian of a living process."""
        running = self._running.get(name)
        return None if running is None else running.handle.pid

    async def _start(self, member: Member) -> None:
        if member.name in self._running:
            return
        what = self._describe(member)
        for path, text in what.files.items():
            write_private(path, text)
        handle = await self._spawn(what)
        before = self._statuses.get(member.name)
        num_starts = 1 if before is None else before.num_starts + 1
        self._set(member.name, Lifecycle.STARTING, num_starts=num_starts)
        watch = asyncio.create_task(self._watch(what, handle), name=f"watch {member.name}")
        self._running[member.name] = _Running(what, handle, watch)

    async def _spawn(self, what: LocalProcess) -> asyncio.subprocess.Process:
        variables = [f"{name}={value}" for name, value in sorted(what.environment.items())]
        command = ["env", *variables, *what.command]
        guard = [sys.executable, "-I", "-S", guardian.__file__, str(what.grace_seconds)]
        with self._layout.log_of(what.name).open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *guard,
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self._inherited_files,
            )

    def _stop(self, name: str) -> None:
        running = self._running.get(name)
        if running is None or self._statuses[name].lifecycle is Lifecycle.STOPPING:
            return
        self._set(name, Lifecycle.STOPPING)
        with suppress(ProcessLookupError):
            running.handle.send_signal(signal.SIGTERM)
        patience = running.what.grace_seconds + _FORCE_AFTER_SECONDS
        asyncio.get_running_loop().call_later(patience, self._force, running.handle)

    def _force(self, handle: asyncio.subprocess.Process) -> None:
        if handle.returncode is None:
            with suppress(ProcessLookupError):
                handle.kill()

    async def _watch(self, what: LocalProcess, handle: asyncio.subprocess.Process) -> None:
        """From the start of a process to its end."""
        probe = asyncio.create_task(self._probe(what))
        exit_code = await handle.wait()
        probe.cancel()
        del self._running[what.name]
        self._set(what.name, Lifecycle.EXITED, exit_code=exit_code)

    async def _probe(self, what: LocalProcess) -> None:
        """Say Ready once it is."""
        while True:
            if what.readiness is None or await is_ready(what.readiness):
                break
            await asyncio.sleep(PROBE_SECONDS)
        if self._statuses[what.name].lifecycle is Lifecycle.STARTING:
            self._set(what.name, Lifecycle.READY)

    def _set(
        self,
        name: str,
        lifecycle: Lifecycle,
        *,
        num_starts: int | None = None,
        exit_code: int | None = None,
    ) -> None:
        if num_starts is None:
            num_starts = self._statuses[name].num_starts
        self._statuses[name] = ProcessStatus(lifecycle, num_starts, self._clock.unix(), exit_code)
        self._changed.set()


def write_private(path: Path, text: str) -> None:
    """Replace a file that only its owner may read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
