"""Event loops in which what must not wait does not: for names, and for the work of another loop.

* A name that does not resolve holds a thread for 10 s and more, however short the time limit is.
  asyncio resolves in the threads of `asyncio.to_thread`, and every call of the Kubernetes API goes
  through those, too (aiohttp looks for a proxy there): a few silent engines stopped all calls.
* Each `await` waits for whatever else is due in its loop: what must not be held up, and what would
  hold up, has a loop of its own.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

from srt_common.cancellation import cancel_and_wait

NUM_NAME_THREADS: Final = 32

Result = TypeVar("Result")


class NamesApart(asyncio.SelectorEventLoop):
    """asyncio's own loop, with threads for names alone."""

    def __init__(self) -> None:
        super().__init__()
        self._names = ThreadPoolExecutor(NUM_NAME_THREADS, thread_name_prefix="names")

    async def getaddrinfo(self, *asked: Any, **options: Any) -> Any:
        """As `socket.getaddrinfo`."""
        return await self.run_in_executor(
            self._names, partial(socket.getaddrinfo, *asked, **options)
        )

    def close(self) -> None:
        """Names that are still asked for are nobody's any more."""
        self._names.shutdown(wait=False, cancel_futures=True)
        super().close()


class OwnLoop:
    """What is made and run in here belongs to this loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def begin(self, what: Callable[[], object]) -> None:
        """Have ``what`` called in there soon, and in order; nobody waits for it."""
        self._loop.call_soon_threadsafe(what)

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Have ``work`` done in there; whoever waits for it is cancelled together with it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


@asynccontextmanager
async def own_loop(name: str) -> AsyncIterator[OwnLoop]:
    """A loop that runs inside the block, in a thread of this name; what still runs there at the end
    is cancelled.
    """
    loop = NamesApart()
    thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
    thread.start()
    own = OwnLoop(loop)
    try:
        yield own
    finally:
        await own.run(_end_others())
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)
        loop.close()


async def _end_others() -> None:
    """Of the loop that runs this."""
    await cancel_and_wait(asyncio.all_tasks() - {asyncio.current_task()})
