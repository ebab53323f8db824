"""An event loop in a thread of its own, for what must not wait for the work of another loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")


class OwnLoop:
    """What is made and run in here belongs to this loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Have ``work`` done in there; whoever waits for it is cancelled together with it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


@asynccontextmanager
async def own_loop(name: str) -> AsyncIterator[OwnLoop]:
    """A loop that runs inside the block, in a thread of this name."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
    thread.start()
    try:
        yield OwnLoop(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)
        loop.close()
