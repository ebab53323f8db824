"""What is to be looked at: each thing once, however often it changed, and again at given times.

* Belongs to one event loop. A key that is being worked on is not handed out a second time.
* How long a key waits is counted from when it became due, also while it is being worked on: as
  client-go's ``workqueue_queue_duration_seconds``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class WorkQueue(Generic[Item]):
    """Keys in the order they became due."""

    def __init__(self, *, observe_wait: Callable[[float], None] = lambda _: None) -> None:
        """``observe_wait``: gets the seconds from when a key became due until it is taken."""
        self._observe_wait = observe_wait
        self._due: dict[Item, float] = {}
        """When each became due, by the loop's clock."""
        self._working: set[Item] = set()
        self._timers: dict[Item, asyncio.TimerHandle] = {}
        self._is_filled = asyncio.Event()

    def add(self, item: Item, *, after: float = 0.0) -> None:
        """Look at ``item`` in ``after`` seconds, or at an earlier time already planned."""
        if after <= 0:
            self._now(item)
            return
        loop = asyncio.get_running_loop()
        planned = self._timers.get(item)
        if planned is not None and planned.when() <= loop.time() + after:
            return
        if planned is not None:
            planned.cancel()
        self._timers[item] = loop.call_later(after, self._now, item)

    async def take(self) -> Item:
        """The next one that nobody works on; `done` must follow."""
        while True:
            for item in self._due:
                if item not in self._working:
                    due_at = self._due.pop(item)
                    self._working.add(item)
                    self._observe_wait(asyncio.get_running_loop().time() - due_at)
                    return item
            self._is_filled.clear()
            await self._is_filled.wait()

    def done(self, item: Item) -> None:
        """Nobody works on it any more."""
        self._working.discard(item)
        if item in self._due:
            self._is_filled.set()

    def __len__(self) -> int:
        """How many are due."""
        return len(self._due)

    def _now(self, item: Item) -> None:
        timer = self._timers.pop(item, None)
        if timer is not None:
            timer.cancel()
        self._due.setdefault(item, asyncio.get_running_loop().time())
        self._is_filled.set()
