"""Ending asyncio tasks for certain.

Python 3.11's ``asyncio.wait_for`` may swallow a cancellation that arrives together with its result,
and redis-py waits with it: a task cancelled once can go on for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Final

INTERVAL_SECONDS: Final = 0.1


async def cancel_and_wait(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Return once every task has ended; what they ended with is left in them."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=INTERVAL_SECONDS)
