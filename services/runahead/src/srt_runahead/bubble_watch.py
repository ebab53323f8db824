"""Is the bubble still open? One poll for all chunks of a worker, and closed when in doubt.

* A bubble is identified by its epoch: a later bubble of the same engine is another one.
* A coordination server that does not answer counts as a closed bubble: run-ahead fails closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from srt_common.clock import Clock
from srt_common.coordination import Bubble
from srt_common.errors import CoordinationUnavailable

MAX_REMEMBERED_EPOCHS: Final = 8


class BubbleWatch:
    """Belongs to one event loop."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Bubble | None]],
        *,
        interval_seconds: float,
        clock: Clock,
    ) -> None:
        self._read = read
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._open_epoch: int | None = None
        self._last_open_at: dict[int, float] = {}
        self._changed = asyncio.Condition()
        self._num_watching = 0
        self._polling: asyncio.Task[None] | None = None

    async def is_open(self, epoch: int) -> bool:
        """Ask now whether the bubble of this epoch is open."""
        await self._poll()
        return self._open_epoch == epoch

    async def wait_closed(self, epoch: int) -> float:
        """Return once the bubble is not open any more; when it was last seen open (monotonic)."""
        self._num_watching += 1
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll_while_watched())
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self._open_epoch != epoch)
        finally:
            self._num_watching -= 1
        return self._last_open_at.get(epoch, self._clock.monotonic())

    async def _poll_while_watched(self) -> None:
        while self._num_watching:
            await self._poll()
            await asyncio.sleep(self._interval_seconds)

    async def _poll(self) -> None:
        asked_at = self._clock.monotonic()
        try:
            bubble = await self._read()
        except CoordinationUnavailable:
            bubble = None
        is_open = bubble is not None and self._clock.unix() < bubble.deadline_at_unix
        self._open_epoch = bubble.epoch if bubble is not None and is_open else None
        if self._open_epoch is not None:
            self._last_open_at[self._open_epoch] = asked_at
            while len(self._last_open_at) > MAX_REMEMBERED_EPOCHS:
                del self._last_open_at[min(self._last_open_at)]
        async with self._changed:
            self._changed.notify_all()
