"""Tasks that go on beside others, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

_AGAIN_SECONDS: Final = 0.1


@asynccontextmanager
async def going_on(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Have ``work`` going on inside the block; what it failed with comes out of the block."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        await end(task)
    if not task.cancelled():
        task.result()


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended: Python 3.11's wait_for may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_SECONDS)
