"""Run-ahead fails closed: a bubble counts as open only while its own epoch is seen and in time."""

from __future__ import annotations

import asyncio

import pytest

from srt_common.coordination import Bubble
from srt_common.errors import CoordinationUnavailable
from srt_runahead.bubble_watch import BubbleWatch


class SteppedClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return self.now


class FakeCoordination:
    """Holds one bubble, or is away."""

    def __init__(self) -> None:
        self.bubble: Bubble | None = None
        self.is_away = False
        self.num_reads = 0

    async def read(self) -> Bubble | None:
        self.num_reads += 1
        if self.is_away:
            raise CoordinationUnavailable(address="here", reason="away")
        return self.bubble


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def coordination() -> FakeCoordination:
    coordination = FakeCoordination()
    coordination.bubble = Bubble(epoch=7, deadline_at_unix=1010.0)
    return coordination


@pytest.fixture
def watch(coordination: FakeCoordination, clock: SteppedClock) -> BubbleWatch:
    return BubbleWatch(coordination.read, interval_seconds=0.0, clock=clock)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_only_the_bubble_of_the_same_epoch_is_open(watch: BubbleWatch) -> None:
    assert await watch.is_open(7)
    assert not await watch.is_open(6)
    assert not await watch.is_open(8)


async def test_no_key_a_passed_deadline_and_a_server_that_is_away_all_mean_closed(
    watch: BubbleWatch, coordination: FakeCoordination, clock: SteppedClock
) -> None:
    clock.now = 1010.0
    assert not await watch.is_open(7)
    clock.now = 1000.0
    coordination.is_away = True
    assert not await watch.is_open(7)
    coordination.is_away = False
    coordination.bubble = None
    assert not await watch.is_open(7)


@pytest.mark.parametrize("successor", [None, Bubble(epoch=8, deadline_at_unix=1010.0)])
async def test_waiting_ends_when_the_bubble_is_gone_or_replaced_and_says_when_it_was_last_open(
    watch: BubbleWatch,
    coordination: FakeCoordination,
    clock: SteppedClock,
    successor: Bubble | None,
) -> None:
    assert await watch.is_open(7)
    waiting = asyncio.create_task(watch.wait_closed(7))
    clock.now = 1001.0
    await settle()
    assert not waiting.done()
    coordination.bubble, clock.now = successor, 1002.0
    assert await waiting == 1001.0


async def test_all_chunks_share_one_poll_and_none_is_left_when_they_have_ended(
    watch: BubbleWatch, coordination: FakeCoordination
) -> None:
    assert await watch.is_open(7)
    waiting = [asyncio.create_task(watch.wait_closed(7)) for _ in range(10)]
    await settle()
    coordination.num_reads = 0
    await asyncio.sleep(0)
    assert coordination.num_reads <= 1
    for task in waiting:
        task.cancel()
    await settle()
    coordination.num_reads = 0
    await settle()
    assert coordination.num_reads == 0


async def test_a_watch_that_rested_polls_again_for_the_next_bubble(
    watch: BubbleWatch, coordination: FakeCoordination
) -> None:
    for epoch in range(7, 20):
        coordination.bubble = Bubble(epoch=epoch, deadline_at_unix=1010.0)
        assert await watch.is_open(epoch)
        waiting = asyncio.create_task(watch.wait_closed(epoch))
        await settle()
        coordination.bubble = None
        await waiting
