"""Work in a loop of its own goes on while the other loop is held up."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from srt_operator.own_loop import own_loop


async def test_it_goes_on_while_the_main_loop_does_nothing() -> None:
    num_rounds = 0

    async def renew() -> None:
        nonlocal num_rounds
        while True:
            await asyncio.sleep(0.001)
            num_rounds += 1

    async with own_loop("beside") as beside:
        renewing = asyncio.create_task(beside.run(renew()))
        await asyncio.sleep(0.01)
        before = num_rounds
        time.sleep(0.5)  # noqa: ASYNC251 - a loop that does nothing else is what is tried
        assert num_rounds - before >= 10
        renewing.cancel()


async def test_answers_and_failures_come_out() -> None:
    async def answer() -> str:
        return threading.current_thread().name

    async def fail() -> None:
        raise LookupError("broken")

    async with own_loop("beside") as beside:
        assert await beside.run(answer()) == "beside"
        with pytest.raises(LookupError, match="broken"):
            await beside.run(fail())


async def test_who_is_cancelled_cancels_the_work() -> None:
    ended = threading.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with own_loop("beside") as beside:
        waiting = asyncio.create_task(beside.run(work()))
        await asyncio.sleep(0.01)
        waiting.cancel()
        assert await asyncio.to_thread(ended.wait, 2.0)
    assert "beside" not in {thread.name for thread in threading.enumerate()}
