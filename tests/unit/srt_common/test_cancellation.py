"""A task that swallows a cancellation is ended all the same."""

from __future__ import annotations

import asyncio

from srt_common.cancellation import cancel_and_wait


async def test_a_swallowed_cancellation_is_repeated_until_the_task_ends() -> None:
    num_cancelled = 0

    async def stubborn() -> None:
        nonlocal num_cancelled
        while num_cancelled < 2:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                num_cancelled += 1

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(asyncio.sleep(3600))]
    await asyncio.sleep(0)
    await cancel_and_wait(tasks)
    assert num_cancelled == 2
    assert tasks[1].cancelled()


async def test_tasks_that_failed_keep_their_error() -> None:
    async def fail() -> None:
        raise ValueError

    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    await cancel_and_wait([task])
    assert isinstance(task.exception(), ValueError)
