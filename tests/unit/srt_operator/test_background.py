"""Tasks beside others end with their block, and their failures are not lost."""

from __future__ import annotations

import asyncio

import pytest

from srt_operator.background import at_once, going_on


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


async def test_what_is_done_at_once_ends_before_the_first_failure_comes_out() -> None:
    done: list[str] = []

    async def work(name: str, *, turns: int, error: Exception | None = None) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        done.append(name)
        if error is not None:
            raise error

    with pytest.raises(LookupError, match="slow"):
        await at_once(
            work("slow", turns=3, error=LookupError("slow")),
            work("quick", turns=1, error=ValueError("quick")),
            work("last", turns=5),
        )
    assert done == ["quick", "slow", "last"]
