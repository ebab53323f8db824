"""Runs one job on one back end: observe, plan, act, say, wait, until it is settled.

* Level-triggered: every round decides from what is there, never from what happened.
* The back end is closed whatever happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from srt_common.clock import Clock
from srt_operator import conditions
from srt_operator.backends.base import Backend
from srt_operator.processes import Observed, ProcessStatus, members
from srt_operator.reconciler import Plan, plan
from srt_operator.resources import SRTJob
from srt_operator.status import Condition, ProcessReport, Progress, SRTJobStatus
from srt_operator.wishes import Wish

MAX_WAIT_SECONDS: Final = 1.0


@dataclass(slots=True)
class Supervisor:
    """One job on its way."""

    job: SRTJob
    backend: Backend
    clock: Clock
    publish: Callable[[SRTJobStatus], None]
    """Called with each new status."""
    before_stopping: Callable[[], Awaitable[None]]
    """Called once, when the job is over and its processes still run."""
    progress: Callable[[], int]
    """Finished optimizer steps."""
    wish: Callable[[], Wish]
    """What a user wants of the job now; asked in every round."""
    stop_requested: asyncio.Event = field(default_factory=asyncio.Event)
    """Set it to have everything stopped."""
    _conditions: tuple[Condition, ...] = ()

    async def run(self) -> SRTJobStatus:
        """Until the job is complete, has failed, is suspended or was stopped; its last status."""
        started_at = self.clock.unix()
        is_ending = False
        try:
            while True:
                processes = await self.backend.observe()
                now = self.clock.unix()
                wish = self.wish()
                observed = Observed(
                    processes,
                    started_at,
                    self._conditions,
                    is_deleting=self.stop_requested.is_set(),
                    is_cancelled=wish.is_cancelled,
                )
                spec = self.job.spec.model_copy(update={"suspend": wish.is_suspended})
                decided = plan(spec, observed, now)
                if decided.is_over and not is_ending:
                    is_ending = True
                    await self.before_stopping()
                await self.backend.apply(decided.actions)
                status = self._status(decided, await self.backend.observe(), now)
                self.publish(status)
                if decided.is_settled:
                    return status
                await self._wait(decided)
        finally:
            await self.backend.close()

    async def _wait(self, decided: Plan) -> None:
        """For a change, for the next time to look, or for the wish to stop."""
        seconds = min(decided.requeue_after or MAX_WAIT_SECONDS, MAX_WAIT_SECONDS)
        change = asyncio.create_task(self.backend.wait_for_change(seconds))
        stop = asyncio.create_task(self.stop_requested.wait())
        waiting = {change} if self.stop_requested.is_set() else {change, stop}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (change, stop):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def _progress(self) -> Progress:
        step, steps = self.progress(), self.job.spec.algorithm.steps
        return Progress(step=step, steps=steps, display=f"{step}/{steps}")

    def _status(
        self, decided: Plan, processes: Mapping[str, ProcessStatus], now: float
    ) -> SRTJobStatus:
        self._conditions = conditions.merge(
            self._conditions, decided.findings, now=now, generation=1
        )
        reports = tuple(
            ProcessReport(name=member.name, state="Absent")
            if (status := processes.get(member.name)) is None
            else ProcessReport(
                name=member.name,
                state=str(status.lifecycle),
                restarts=status.num_starts - 1,
                exitCode=status.exit_code,
            )
            for member in members(self.job.spec)
        )
        return SRTJobStatus(
            phase=decided.phase,
            conditions=self._conditions,
            processes=reports,
            progress=self._progress(),
        )
