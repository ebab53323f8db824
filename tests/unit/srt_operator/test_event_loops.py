"""Names that do not resolve hold up nothing else, nor does one loop the other."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

from srt_operator import event_loops
from srt_operator.event_loops import NamesApart, own_loop


def test_names_that_do_not_resolve_hold_no_thread_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_over, asked = threading.Event(), []

    def hang(host: str, *_asked: Any, **_options: Any) -> list[Any]:
        asked.append(host)
        is_over.wait(30.0)
        return []

    async def work_beside_names() -> str:
        loop = asyncio.get_running_loop()
        asking = [loop.create_task(loop.getaddrinfo(f"engine-{i}", 80)) for i in range(100)]
        try:
            async with asyncio.timeout(5.0):
                while len(asked) < event_loops.NUM_NAME_THREADS:  # noqa: ASYNC110 - threads add
                    await asyncio.sleep(0.01)
                return await asyncio.to_thread(lambda: "done")
        finally:
            is_over.set()
            await asyncio.gather(*asking)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with asyncio.Runner(loop_factory=NamesApart) as runner:
        assert runner.run(work_beside_names()) == "done"


def test_names_resolve() -> None:
    async def resolve() -> Any:
        return await asyncio.get_running_loop().getaddrinfo("localhost", 80, family=socket.AF_INET)

    with asyncio.Runner(loop_factory=NamesApart) as runner:
        assert ("127.0.0.1", 80) in {address[4] for address in runner.run(resolve())}


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


async def test_what_still_runs_there_ends_with_it() -> None:
    began, ended = threading.Event(), threading.Event()

    async def work() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def begin() -> asyncio.Task[None]:
        return asyncio.create_task(work())

    async with own_loop("beside") as beside:
        task = await beside.run(begin())
        assert await asyncio.to_thread(began.wait, 2.0)
        assert not task.done()
    assert ended.is_set()
