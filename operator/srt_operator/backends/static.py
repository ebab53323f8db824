"""Watches processes that somebody else runs, such as docker compose: starts and stops nothing.

* ``Start`` means: from now on it is looked at. ``Stop`` and `close` mean: no longer.
* A process is starting until it is seen ready. One that was ready and then is not seen for
  some seconds has ended with `LOST`, which is said; whoever runs it starts it again, and we look
  again.
* The trainer has ended well once it has said so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Final

from srt_common.clock import Clock
from srt_operator.processes import Lifecycle, ProcessStatus
from srt_operator.reconciler import Action, Start

LOOK_SECONDS: Final = 0.5
LOST_AFTER_SECONDS: Final = 15.0
LOST: Final = 1
"""Exit status of what is not seen any more; its own is known to whoever runs it."""

NOT_WATCHED: Final = -15
"""Exit status of what was stopped here; it may well go on where it is."""


class Sight(Enum):
    """What one look at a process tells."""

    ABSENT = "absent"
    READY = "ready"
    FINISHED = "finished"
    """It has done all that it was to do."""


Look = Callable[[], Awaitable[Sight]]


class StaticBackend:
    """A job's processes where they are given. Belongs to one event loop."""

    def __init__(
        self,
        looks: Mapping[str, Look],
        *,
        clock: Clock,
        lost_after_seconds: float = LOST_AFTER_SECONDS,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            looks: how to look at each member, by name; a look ends within seconds.
            clock: of the statuses' times (unix).
            lost_after_seconds: not seen for so long, a process that was ready has ended.
        """
        self._looks = dict(looks)
        self._clock = clock
        self._lost_after_seconds = lost_after_seconds
        self._statuses: dict[str, ProcessStatus] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    async def observe(self) -> Mapping[str, ProcessStatus]:
        """How the processes stand, as far as they are looked at."""
        return dict(self._statuses)

    async def apply(self, actions: Sequence[Action]) -> None:
        """Begin and cease to look, in the actions' order."""
        for action in actions:
            if isinstance(action, Start):
                self._start(action.member.name)
            else:
                self._stop(action.name)

    async def wait_for_change(self, timeout_seconds: float) -> None:
        """Return when a process was seen to change, at the latest after ``timeout_seconds``."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_seconds)
        self._changed.clear()

    async def close(self) -> None:
        """Look at nothing any more. Idempotent."""
        for name in list(self._watches):
            self._stop(name)

    def _start(self, name: str) -> None:
        if name in self._watches:
            return
        before = self._statuses.get(name)
        num_starts = 1 if before is None else before.num_starts + 1
        self._set(name, Lifecycle.STARTING, num_starts=num_starts)
        self._watches[name] = asyncio.create_task(self._watch(name), name=f"watch {name}")

    def _stop(self, name: str) -> None:
        watch = self._watches.pop(name, None)
        if watch is not None:
            watch.cancel()
            self._end(name, NOT_WATCHED)

    async def _watch(self, name: str) -> None:
        """From the first look to the process's end."""
        seen_at = None
        while True:
            sight = await self._looks[name]()
            now = self._clock.monotonic()
            if sight is Sight.FINISHED:
                exit_code, why = 0, ""
                break
            if sight is Sight.READY:
                seen_at = now
                if self._statuses[name].lifecycle is Lifecycle.STARTING:
                    self._set(name, Lifecycle.READY)
            elif seen_at is not None and now - seen_at >= self._lost_after_seconds:
                exit_code, why = LOST, f"not seen for {self._lost_after_seconds:g} s"
                break
            await asyncio.sleep(LOOK_SECONDS)
        del self._watches[name]
        self._end(name, exit_code, why)

    def _end(self, name: str, exit_code: int, why: str = "") -> None:
        self._set(name, Lifecycle.EXITED, exit_code=exit_code, detail=why)

    def _set(
        self,
        name: str,
        lifecycle: Lifecycle,
        *,
        num_starts: int | None = None,
        exit_code: int | None = None,
        detail: str = "",
    ) -> None:
        if num_starts is None:
            num_starts = self._statuses[name].num_starts
        now = self._clock.unix()
        self._statuses[name] = ProcessStatus(lifecycle, num_starts, now, exit_code, detail)
        self._changed.set()
