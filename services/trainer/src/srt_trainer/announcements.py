"""What the trainer tells the other parts through the coordination server: its phase, its next
prompts.

* Nothing here makes training wait or stop: a background task publishes the latest state, at each
  change and every `HEARTBEAT_SECONDS`; trouble is logged when it begins and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from srt_common.cancellation import cancel_and_wait
from srt_common.clock import Clock
from srt_common.coordination import Phase, PhaseReport, WindowPrompt
from srt_common.errors import CoordinationUnavailable

HEARTBEAT_SECONDS: Final = 2.0
FAREWELL_SECONDS: Final = 3.0

_LOGGER = logging.getLogger(__name__)


class Board(Protocol):
    """The part of `Coordination` that is written here."""

    async def publish_phase(self, report: PhaseReport) -> None: ...

    async def publish_window(
        self, prompts: Sequence[WindowPrompt], token_ids: Sequence[Sequence[int]]
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Window:
    """The prompts of the current step and of the steps after it, nearest first."""

    prompts: Sequence[WindowPrompt]
    token_ids: Sequence[Sequence[int]]


class Announcer:
    """Keeps the board up to date. Belongs to one event loop; use as a context manager."""

    def __init__(
        self,
        board: Board | None,
        *,
        num_pending: Callable[[], int],
        clock: Clock,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._board = board
        self._num_pending = num_pending
        self._clock = clock
        self._heartbeat_seconds = heartbeat_seconds
        self._phase: tuple[Phase, int, int] | None = None
        self._window: Window | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_in_trouble = False
        self.num_failures = 0
        """Times the board could not be written."""

    async def __aenter__(self) -> Announcer:
        if self._board is not None:
            self._task = asyncio.create_task(self._keep_publishing(self._board))
        return self

    async def __aexit__(self, *error: object) -> None:
        """Publish what is left, within `FAREWELL_SECONDS`."""
        if self._board is None or self._task is None:
            return
        await cancel_and_wait([self._task])
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._publish(self._board)

    def enter(self, phase: Phase, *, step: int, policy_version: int) -> None:
        """Say what is done from now on."""
        self._phase = (phase, step, policy_version)
        self._changed.set()

    def show(self, window: Window) -> None:
        """Say which prompts come next."""
        self._window = window
        self._changed.set()

    async def _keep_publishing(self, board: Board) -> None:
        while True:
            self._changed.clear()
            await self._publish(board)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat_seconds):
                    await self._changed.wait()

    async def _publish(self, board: Board) -> None:
        try:
            if (window := self._window) is not None:
                await board.publish_window(window.prompts, window.token_ids)
                if self._window is window:
                    self._window = None
            if self._phase is not None:
                await board.publish_phase(self._report(*self._phase))
        except CoordinationUnavailable as error:
            self.num_failures += 1
            if not self._is_in_trouble:
                _LOGGER.warning("phases are not published", extra={"address": error.address})
            self._is_in_trouble = True
        else:
            self._is_in_trouble = False

    def _report(self, phase: Phase, step: int, policy_version: int) -> PhaseReport:
        return PhaseReport(
            phase=phase,
            step=step,
            policy_version=policy_version,
            num_pending=self._num_pending(),
            reported_at_unix=self._clock.unix(),
        )
