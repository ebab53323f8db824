"""What goes on for each active job beside its pods: bubbles and run-ahead, and readings of it.

* One task a job, in the leader only. It ends with the leader: bubbles expire within 3 s. What
  it has learnt of them ends with it, too, so an edit of the job replaces it only where it must.
* All of them in a loop of their own: each engine is asked ten times a second, and each `await` of a
  look would wait for that. A reading is replaced as a whole, so looks may take it at any time.
* One that fails says so in the log and in `is_running`; whoever looks at the job makes another.
* A reading is what was last heard; whoever shows it asks how old it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, ItemsView, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import httpx

from srt_common.cancellation import cancel_and_wait
from srt_common.clock import Clock
from srt_common.coordination import Coordination
from srt_common.errors import CoordinationUnavailable
from srt_common.messages.tree_cache import CacheStats
from srt_operator.cluster.store import Key
from srt_operator.constants import Kind
from srt_operator.engine_counters import EngineCounters
from srt_operator.event_loops import OwnLoop
from srt_operator.http_client import plain_client
from srt_operator.resources import SRTJobSpec
from srt_operator.run_lines import Line
from srt_operator.runahead.assembly import Place, run_ahead
from srt_operator.runahead.controller import Controller
from srt_operator.runahead.coverage import TreeCacheClient
from srt_operator.status import RunAheadReport

READ_SECONDS: Final = 5.0
FINISH_SECONDS: Final = 5.0
_LOG = logging.getLogger(__name__)


def share(number: float | None) -> str:
    """With two digits, as statuses show it: etcd knows no floats. Empty: unknown."""
    return "" if number is None else f"{number:.2f}"


@dataclass(slots=True)
class Reading:
    """What was last heard of a job's processes."""

    step: int | None = None
    """Finished optimizer steps."""
    policy_version: int | None = None
    """Oldest weights among the engines."""
    num_lookups: int = 0
    num_hits: int = 0
    run_ahead: RunAheadReport = field(default_factory=RunAheadReport)
    gpu_utilization: float | None = None
    """0..1; None: unknown."""
    caches: list[CacheStats] = field(default_factory=list)
    server_fault: str = ""
    """Why the Redis-protocol server does not answer; empty: it does."""

    @property
    def hit_rate(self) -> str:
        """Empty: nothing was looked up."""
        return share(self.num_hits / self.num_lookups if self.num_lookups else None)


class Companion:
    """Of one job. Made by a look; what it does begins with `start`, in the loop of companions."""

    def __init__(
        self,
        spec: SRTJobSpec,
        place: Place,
        *,
        token: Callable[[], str],
        since: float,
        clock: Clock,
        on_reading: Callable[[], object],
    ) -> None:
        """Of a job that began at ``since``, in Unix seconds: what was reported before is another's
        that used the same engines. ``token``: of the gateways; ``on_reading``: called after each.
        """
        self.spec = spec
        self._since = since
        self.place = place
        self.reading = Reading()
        self._token = token
        self._clock = clock
        self._on_reading = on_reading
        self._lines: dict[str, Line] = {}
        self._controller: Controller | None = None
        self._look: Callable[[], Awaitable[None]] | None = None
        self._going_on: list[asyncio.Task[None]] = []
        """Inside ``_task``."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Go on until `stop`."""
        self._task = asyncio.create_task(self._run(), name=f"companion of {self.place.job_name}")
        self._task.add_done_callback(self._note_end)

    def suits(self, spec: SRTJobSpec, place: Place) -> bool:
        """Whether it does for this job what another one would: then it stays, and with it what it
        has learnt of bubbles.
        """
        return _used(self.spec) == _used(spec) and self.place.is_like(place)

    @property
    def is_running(self) -> bool:
        """False: it failed."""
        return self._task is None or not self._task.done()

    async def finish(self) -> Reading:
        """The job is over: close bubbles and read a last time, within a few seconds."""
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                if self._controller is not None:
                    await self._controller.finish()
                if self._look is not None:
                    await self._look()
        except TimeoutError:
            _LOG.warning("the end is not waited for", extra={"job": self.place.job_name})
        await self.stop()
        return self.reading

    async def stop(self) -> None:
        """End it; bubbles expire by themselves. A TaskGroup cancels what goes on in it once, which
        redis-py may swallow: it is cancelled here until it has ended.
        """
        if self._task is not None:
            await cancel_and_wait([self._task, *self._going_on])

    def note(self, line: Line) -> None:
        """Take in a line that a local run would write to a file."""
        self._lines[str(line.get("kind", "engines"))] = line

    @property
    def engines(self) -> Line:
        """The last line of the engines' counters; empty: none of them has answered yet."""
        return self._lines.get("engines", {})

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(plain_client())
            coordination = Coordination.from_url(self.place.server_url, job=self.place.job_id)
            stack.push_async_callback(coordination.close)
            if self.spec.rollout.pool.drafter.enabled and self.spec.run_ahead.enabled:
                entered = run_ahead(self.spec, self.place, write=self.note, is_new=False)
                self._controller = await stack.enter_async_context(entered)
            async with asyncio.TaskGroup() as tasks:
                self._going_on.append(tasks.create_task(self._read(http, coordination)))
                if self._controller is not None:
                    self._going_on.append(tasks.create_task(self._controller.run()))

    async def _read(self, http: httpx.AsyncClient, coordination: Coordination) -> None:
        engines = EngineCounters(
            http,
            self.place.engines,
            token=self._token,
            write=self.note,
            bubbles=lambda: {} if self._controller is None else self._controller.open_bubbles,
            clock=self._clock,
        )
        cache = TreeCacheClient(http, self.place.caches, token=self.place.cache_token)

        async def look() -> None:
            await engines.read()
            report, server_fault = None, ""
            try:
                report = await coordination.phase()
            except CoordinationUnavailable as error:
                server_fault = error.reason
            if report is not None and report.reported_at_unix < self._since:
                report = None
            versions = (now.load.policy_version for now in engines.now.values())
            self.reading = Reading(
                step=self.reading.step if report is None else report.policy_version,
                policy_version=min(versions, default=None),
                num_lookups=self._counted("num_lookups"),
                num_hits=self._counted("num_hits"),
                run_ahead=_run_ahead(self._lines.get("runahead", {}).get("totals", {})),
                gpu_utilization=self._gpu_utilization(),
                caches=await cache.stats(),
                server_fault=server_fault,
            )

        self._look = look
        while True:
            await look()
            self._on_reading()
            await asyncio.sleep(READ_SECONDS)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("task failed", extra={"task": task.get_name()}, exc_info=error)
            asyncio.get_running_loop().call_later(READ_SECONDS, self._on_reading)

    def _gpu_utilization(self) -> float | None:
        return None if self._controller is None else self._controller.gpu_utilization()

    def _counted(self, name: str) -> int:
        engines: Mapping[str, Mapping[str, int]] = self.engines.get("engines", {})
        return sum(counts.get(name, 0) for counts in engines.values())


class Companions:
    """Of all jobs that this replica accompanies. Belongs to the event loop of the looks."""

    def __init__(self, loop: OwnLoop) -> None:
        """``loop``: theirs."""
        self._loop = loop
        self._found: dict[Key, Companion] = {}

    def get(self, key: Key) -> Companion | None:
        """Of one job."""
        return self._found.get(key)

    def items(self) -> ItemsView[Key, Companion]:
        """All, by job."""
        return self._found.items()

    def begin(self, key: Key, companion: Companion) -> None:
        """Have a job accompanied."""
        self._found[key] = companion
        self._loop.begin(companion.start)

    async def finish(self, key: Key) -> Reading | None:
        """A job is over: what was heard of it last; None: nobody accompanied it."""
        companion = self._found.pop(key, None)
        return None if companion is None else await self._loop.run(companion.finish())

    async def end(self, key: Key) -> None:
        """Accompany a job no more; its bubbles expire by themselves."""
        companion = self._found.pop(key, None)
        if companion is not None:
            await self._loop.run(companion.stop())

    async def end_all(self) -> None:
        """Accompany no job any more."""
        for key in list(self._found):
            await self.end(key)

    def engines_of(self, namespace: str, job: str) -> Line | None:
        """The last line of a job's engine counters; None: nobody accompanies it."""
        companion = self._found.get((str(Kind.SRT_JOB), namespace, job))
        return None if companion is None else companion.engines


def _used(spec: SRTJobSpec) -> tuple[object, ...]:
    """The fields that a companion goes by."""
    rollout, cache = spec.rollout, spec.tree_cache
    return spec.run_ahead, rollout.pool.drafter.enabled, rollout.pool_ref, cache.cache_ref


def _run_ahead(totals: Mapping[str, int]) -> RunAheadReport:
    return RunAheadReport(
        dispatched=totals.get("num_sent", 0),
        completed=totals.get("num_completed", 0),
        aborted=totals.get("num_aborted", 0),
        tokens=totals.get("num_tokens", 0),
        tokensDraftedFrom=totals.get("num_tokens_drafted_from", 0),
    )
