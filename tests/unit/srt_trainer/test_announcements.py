"""Announcements: the latest state is told, again and again, and trouble never reaches training."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from srt_common.coordination import PhaseReport, WindowPrompt
from srt_common.errors import CoordinationUnavailable
from srt_trainer.announcements import Announcer, Window


class FixedClock:
    """A clock that stands still."""

    def monotonic(self) -> float:
        return 5.0

    def unix(self) -> float:
        return 1000.0


class MemoryBoard:
    """Stands in for the coordination server."""

    def __init__(self) -> None:
        self.reports: list[PhaseReport] = []
        self.windows: list[Sequence[WindowPrompt]] = []
        self.is_down = False
        self.num_calls = 0
        self._called = asyncio.Event()

    async def publish_phase(self, report: PhaseReport) -> None:
        self._count()
        self.reports.append(report)

    async def publish_window(
        self, prompts: Sequence[WindowPrompt], token_ids: Sequence[Sequence[int]]
    ) -> None:
        self._count()
        assert len(prompts) == len(token_ids)
        self.windows.append(prompts)

    def _count(self) -> None:
        self.num_calls += 1
        self._called.set()
        if self.is_down:
            raise CoordinationUnavailable(address="board", reason="down")

    async def wait_for_calls(self, number: int) -> None:
        while self.num_calls < number:
            self._called.clear()
            await self._called.wait()


def announcer(board: MemoryBoard | None, heartbeat_seconds: float = 60.0) -> Announcer:
    return Announcer(
        board, num_pending=lambda: 3, clock=FixedClock(), heartbeat_seconds=heartbeat_seconds
    )


WINDOW = Window([WindowPrompt(prompt_key=b"k", step=1, num_rollouts=2, max_tokens=3)], [[1, 2]])


async def test_each_change_is_told_at_once() -> None:
    board = MemoryBoard()
    async with announcer(board) as speaker:
        speaker.enter("rollout", step=2, policy_version=2)
        await board.wait_for_calls(1)
        speaker.enter("train", step=2, policy_version=2)
        await board.wait_for_calls(2)
    assert [report.phase for report in board.reports[:2]] == ["rollout", "train"]
    assert board.reports[0] == PhaseReport(
        phase="rollout", step=2, policy_version=2, num_pending=3, reported_at_unix=1000.0
    )


async def test_the_phase_is_repeated_while_nothing_changes() -> None:
    board = MemoryBoard()
    async with announcer(board, heartbeat_seconds=0.001) as speaker:
        speaker.enter("train", step=0, policy_version=0)
        await board.wait_for_calls(4)
    assert {report.phase for report in board.reports} == {"train"}


async def test_the_window_comes_before_the_phase_and_once() -> None:
    board = MemoryBoard()
    async with announcer(board, heartbeat_seconds=0.001) as speaker:
        speaker.show(WINDOW)
        speaker.enter("rollout", step=0, policy_version=0)
        await board.wait_for_calls(5)
    assert board.windows == [WINDOW.prompts]


async def test_trouble_is_counted_and_what_was_not_told_is_told_later() -> None:
    board = MemoryBoard()
    board.is_down = True
    async with announcer(board, heartbeat_seconds=0.001) as speaker:
        speaker.show(WINDOW)
        speaker.enter("rollout", step=0, policy_version=0)
        await board.wait_for_calls(3)
        board.is_down = False
        before = board.num_calls
        await board.wait_for_calls(before + 2)
        assert speaker.num_failures >= 2
    assert board.windows == [WINDOW.prompts]
    assert board.reports[-1].phase == "rollout"


async def test_the_last_phase_is_told_before_leaving() -> None:
    board = MemoryBoard()
    async with announcer(board) as speaker:
        speaker.enter("finished", step=4, policy_version=4)
    assert board.reports[-1].phase == "finished"


async def test_without_a_board_nothing_happens() -> None:
    async with announcer(None) as speaker:
        speaker.enter("rollout", step=0, policy_version=0)
        speaker.show(WINDOW)
    assert speaker.num_failures == 0
