"""Tasks that go on beside others, and their end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

_LOG = logging.getLogger(__name__)
_AGAIN_SECONDS: Final = 0.1


@asynccontextmanager
async def going_on(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Have ``work`` going on inside the block; what it failed with comes out of the block."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        await end(task)
    if not task.cancelled():
        task.result()


def _log_failure(task: asyncio.Task[None]) -> None:
    """Say at once what comes out of the block only when that ends."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error("task failed", extra={"task": task.get_name()}, exc_info=error)


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended: Python 3.11's wait_for may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_SECONDS)
