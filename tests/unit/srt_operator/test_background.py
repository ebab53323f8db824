"""Tasks beside others end with their block, and their failures are not lost."""

from __future__ import annotations

import asyncio

import pytest

from srt_operator.background import end, going_on


async def test_work_goes_on_inside_the_block_and_ends_with_it() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with going_on(work(), "work"):
        await began.wait()
        assert not ended.is_set()
    assert ended.is_set()


async def test_a_failure_is_logged_at_once_and_comes_out_of_the_block(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = asyncio.Event()

    async def work() -> None:
        failed.set()
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        async with going_on(work(), "work"):
            await failed.wait()
            await asyncio.sleep(0)
            assert caplog.records


async def test_a_task_that_swallows_a_cancellation_is_ended_all_the_same() -> None:
    num_swallowed = 0

    async def stubborn() -> None:
        nonlocal num_swallowed
        while num_swallowed < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                num_swallowed += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()
    assert num_swallowed == 2
