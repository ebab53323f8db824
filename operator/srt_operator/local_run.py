"""One `srt run` on this machine: an arm, or two arms one after the other, and what came out.

* Everything that is started ends with it; the run folder holds all that is left.
* The first SIGINT or SIGTERM stops the job in order, the second one at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from srt_common.clock import SystemClock
from srt_common.telemetry.logs import JsonFormatter
from srt_operator.backends.base import Backend
from srt_operator.backends.local import LocalBackend
from srt_operator.backends.site import locked, prepared
from srt_operator.background import going_on
from srt_operator.constants import Phase
from srt_operator.display import Display
from srt_operator.engine_counters import EngineCounters
from srt_operator.http_client import plain_client
from srt_operator.layout import RunLayout
from srt_operator.manifests.build import local_process
from srt_operator.manifests.process import LocalSite
from srt_operator.outcome import is_srt
from srt_operator.processes import Component
from srt_operator.resources import SRTJob
from srt_operator.run_folder import status_in
from srt_operator.run_lines import LineFile, append_line, of_kind, replace_text
from srt_operator.runahead.assembly import local_place, run_ahead, token_in, urls
from srt_operator.runahead.controller import Controller
from srt_operator.status import SRTJobStatus
from srt_operator.supervisor import Supervisor
from srt_operator.wishes import Wishes, wish_of


@dataclass(slots=True)
class Interruption:
    """Whether somebody wants the run to stop."""

    requested: asyncio.Event
    num_signals: int = 0


async def run_arm(
    job: SRTJob, layout: RunLayout, show: Display, interruption: Interruption
) -> SRTJobStatus:
    """Run one job in its folder, from wherever an earlier start left it.

    Raises:
        ConfigurationError: the folder is in use, or the machine lacks something; nothing runs.
    """
    with locked(layout) as lock, prepared(job, layout) as site, _logged(layout):
        backend = LocalBackend(
            partial(local_process, job, site), layout, clock=SystemClock(), inherited_files=[lock]
        )
        return await supervise(job, site, backend, show, interruption)


async def supervise(
    job: SRTJob, site: LocalSite, backend: Backend, show: Display, interruption: Interruption
) -> SRTJobStatus:
    """Carry a job through on a back end, with all that goes on beside its processes."""
    async with _companions(job, site) as companions:
        supervisor = Supervisor(
            job=job,
            backend=backend,
            clock=SystemClock(),
            publish=_publisher(site.layout, show),
            before_stopping=companions.read_last,
            progress=_progress(site.layout),
            wish=Wishes(site.layout.job, begun_with=wish_of(job)).now,
            stop_requested=interruption.requested,
        )
        return await supervisor.run()


@asynccontextmanager
async def interruptible() -> AsyncIterator[Interruption]:
    """SIGINT and SIGTERM ask for an orderly stop; the second one cancels what is going on."""
    interruption = Interruption(asyncio.Event())
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def on_signal() -> None:
        interruption.num_signals += 1
        interruption.requested.set()
        if interruption.num_signals > 1 and task is not None:
            task.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield interruption
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextmanager
def _logged(layout: RunLayout) -> Iterator[None]:
    """Our own log goes to a file: the terminal belongs to the display."""
    handler = logging.FileHandler(layout.log_of("operator"))
    handler.setFormatter(JsonFormatter("srt-operator"))
    root, ours = logging.getLogger(), logging.getLogger("srt_operator")
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


@dataclass(slots=True)
class _Companions:
    """What goes on inside `srt run` beside the processes."""

    counters: EngineCounters | None = None
    controller: Controller | None = None

    def open_bubbles(self) -> Mapping[str, str]:
        """Types of the bubbles that are open, by engine."""
        return {} if self.controller is None else self.controller.open_bubbles

    async def read_last(self) -> None:
        """Read what would be gone with the processes."""
        if self.controller is not None:
            await self.controller.finish()
        if self.counters is not None:
            await self.counters.read()


@asynccontextmanager
async def _companions(job: SRTJob, site: LocalSite) -> AsyncIterator[_Companions]:
    async with AsyncExitStack() as stack:
        companions = _Companions()
        companions.counters = EngineCounters(
            await stack.enter_async_context(plain_client()),
            urls(job, site, Component.ROLLOUT),
            token=token_in(site.layout.token),
            write=partial(append_line, site.layout.engines),
            bubbles=companions.open_bubbles,
            clock=SystemClock(),
        )
        counting = going_on(companions.counters.run(), "engine counters")
        await stack.enter_async_context(counting)
        if is_srt(job) and job.spec.run_ahead.enabled:
            is_new = job.spec.tree_cache.cache.redis is not None  # what an earlier run left there
            controller = await stack.enter_async_context(
                run_ahead(
                    job.spec,
                    local_place(job, site),
                    write=partial(append_line, site.layout.bubbles),
                    is_new=is_new,
                )
            )
            companions.controller = controller
            controlling = going_on(controller.run(), "run-ahead controller")
            await stack.enter_async_context(controlling)
        yield companions


def _progress(layout: RunLayout) -> Callable[[], int]:
    metrics = LineFile(layout.metrics)
    return lambda: len(of_kind(metrics.lines(), "step"))


def _publisher(layout: RunLayout, show: Display) -> Callable[[SRTJobStatus], None]:
    """Shows each status and keeps the last one in the run folder."""
    last: list[SRTJobStatus] = []

    def publish(status: SRTJobStatus) -> None:
        show.show(status)
        if last != [status]:
            last[:] = [status]
            replace_text(layout.status, status.model_dump_json(by_alias=True, indent=2) + "\n")

    return publish


def is_done(job: SRTJob, layout: RunLayout) -> bool:
    """Whether an earlier start has done every step that the job asks for."""
    status = status_in(layout)
    return status.phase is Phase.COMPLETE and status.progress.step >= job.spec.algorithm.steps
