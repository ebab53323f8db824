"""Tasks that go on beside others, or at once, and their end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from srt_common.cancellation import cancel_and_wait

_LOG = logging.getLogger(__name__)


@asynccontextmanager
async def going_on(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Have ``work`` going on inside the block; what it failed with comes out of the block."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        await cancel_and_wait([task])
    if not task.cancelled():
        task.result()


async def at_once(*work: Coroutine[Any, Any, None]) -> None:
    """Have all done; what the first of them failed with comes out when all have ended."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if outcome is not None:
            raise outcome


def _log_failure(task: asyncio.Task[None]) -> None:
    """Say at once what comes out of the block only when that ends."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error("task failed", extra={"task": task.get_name()}, exc_info=error)
