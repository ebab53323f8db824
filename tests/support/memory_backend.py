"""A back end whose processes are entries of a dictionary, for tests that need no real ones.

Keeps every promise of `srt_operator.backends.base.Backend`; the test decides when processes get
ready and end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from srt_common.clock import Clock
from srt_operator.processes import Lifecycle, ProcessStatus
from srt_operator.reconciler import Action, Start


class MemoryBackend:
    """Processes in memory."""

    def __init__(self, clock: Clock) -> None:
        self.statuses: dict[str, ProcessStatus] = {}
        self.started: list[str] = []
        """Names in the order of their starts."""
        self._clock = clock
        self._changed = asyncio.Event()

    async def observe(self) -> Mapping[str, ProcessStatus]:
        """How the processes stand now."""
        return dict(self.statuses)

    async def apply(self, actions: Sequence[Action]) -> None:
        """Carry out actions in their order; what is stopped has ended at the next look."""
        for action in actions:
            if isinstance(action, Start):
                self._start(action.member.name)
            elif (status := self.statuses.get(action.name)) and status.is_alive:
                self.move(action.name, Lifecycle.STOPPING)
                asyncio.get_running_loop().call_soon(self.end, action.name, -15)

    async def wait_for_change(self, timeout_seconds: float) -> None:
        """Return after a change, at the latest after ``timeout_seconds``."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_seconds)
        self._changed.clear()

    async def close(self) -> None:
        """End what still runs."""
        for name, status in self.statuses.items():
            if status.is_alive:
                self.end(name, -9)

    def ready(self, name: str) -> None:
        """A process serves."""
        self.move(name, Lifecycle.READY)

    def end(self, name: str, exit_code: int) -> None:
        """A process has ended."""
        self.move(name, Lifecycle.EXITED, exit_code)

    def move(self, name: str, lifecycle: Lifecycle, exit_code: int | None = None) -> None:
        """A process has come to another point of its life."""
        self.statuses[name] = replace(
            self.statuses[name],
            lifecycle=lifecycle,
            since=self._clock.unix(),
            exit_code=exit_code,
        )
        self._changed.set()

    def _start(self, name: str) -> None:
        before = self.statuses.get(name)
        if before is not None and before.is_alive:
            return
        num_starts = 1 if before is None else before.num_starts + 1
        self.statuses[name] = ProcessStatus(Lifecycle.STARTING, num_starts, self._clock.unix())
        self.started.append(name)
        self._changed.set()
