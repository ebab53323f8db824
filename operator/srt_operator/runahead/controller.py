"""The run-ahead loop of one job: read signals, move bubbles, fill them, account for them.

* Ten looks a second at a job that can have bubbles, one at others; decisions are `bubbles` and
  `planner`, this module only asks and acts.
* Fails closed: without the coordination server nothing is open, and a bubble whose holder is gone
  ends by itself within 3 s.
* The order at a close: the key goes first, so workers abort before anything is written down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from opentelemetry.trace import Link, Tracer

from srt_common.clock import Clock
from srt_common.coordination import (
    BUBBLE_TTL_SECONDS,
    Bubble,
    Coordination,
    PhaseReport,
)
from srt_common.errors import CoordinationUnavailable
from srt_common.messages.runahead import RunaheadJob
from srt_common.telemetry import names
from srt_operator.resources import RunAheadSpec
from srt_operator.runahead.bubble_log import BubbleLog, OpenBubble
from srt_operator.runahead.bubbles import (
    TRAINER_PHASES,
    BubbleState,
    Detector,
    Signal,
    advance,
)
from srt_operator.runahead.coverage import TreeCacheClient
from srt_operator.runahead.dispatch import Dispatcher
from srt_operator.runahead.gpu_votes import Vote, is_fresh, mean_utilization, voters
from srt_operator.runahead.ledger import Ledger
from srt_operator.runahead.planner import Chunk, Demand, Room, plan_chunks
from srt_operator.runahead.totals import TotalsLog
from srt_operator.signals.base import GPUReading, GPUSource, LoadReading, LoadSource
from srt_operator.signals.silence import Silence

_LOG = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.1
"""Between looks while bubbles can be."""
IDLE_TICK_SECONDS: Final = 1.0
"""Between looks while no engine is heard of, or no trainer."""
HOLD_SECONDS: Final = 1.0
"""A bubble's key lives three times as long."""
COVERAGE_SECONDS: Final = 1.0
CHUNK_PATIENCE_SECONDS: Final = 10.0
"""A chunk that has not begun by then is dropped."""

_NOT_SAMPLED_YET: Final = frozenset({"checkpoint", "eval"})
"""Phases in which the step they name has not been sampled yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the controller talks to."""

    coordination: Coordination
    loads: LoadSource
    gpus: Sequence[GPUSource]
    cache: TreeCacheClient
    dispatcher: Dispatcher
    log: BubbleLog
    totals: TotalsLog
    tracer: Tracer
    clock: Clock


class Controller:
    """Bubbles and run-ahead of one job. Belongs to one event loop."""

    def __init__(self, job: str, spec: RunAheadSpec, engines: Sequence[str], parts: Parts) -> None:
        self._job = job
        self._spec = spec
        self._parts = parts
        self._detectors = {engine: Detector() for engine in engines}
        self._open: dict[str, OpenBubble] = {}
        self._ledger = Ledger()
        self._gpus: Mapping[str, Mapping[str, GPUReading]] = {}
        self._coverage: Mapping[bytes, int] = {}
        self._covered_at: float | None = None
        self._server = Silence()
        self._turn = asyncio.Lock()
        self._is_finished = False

    @property
    def open_bubbles(self) -> Mapping[str, str]:
        """Types of the bubbles that are open, by engine."""
        return {engine: bubble.bubble_type for engine, bubble in self._open.items()}

    async def run(self) -> None:
        """Look and act until cancelled."""
        while True:
            due_in = await self.tick()
            await asyncio.sleep(due_in)

    async def finish(self) -> None:
        """Close what is open, open nothing more, and write the last totals."""
        async with self._turn:
            self._is_finished = True
            for engine in list(self._open):
                await self._close(engine, "the job is over")
            await self._parts.totals.write(num_sent=self._ledger.num_sent)

    async def tick(self) -> float:
        """One look, nothing once the job is over; seconds until the next one is due."""
        async with self._turn:
            can_have_bubbles = not self._is_finished and await self._look()
        return TICK_SECONDS if can_have_bubbles else IDLE_TICK_SECONDS

    def gpu_utilization(self) -> float | None:
        """0..1, mean over engines and sources; None: no source that the job names has data."""
        readings = [one for found in self._gpus.values() for one in found.values()]
        return mean_utilization(readings, now=self._parts.clock.monotonic())

    async def _look(self) -> bool:
        """Whether there was anybody to look at."""
        report = await self._report()
        readings = await self._parts.loads.read()
        self._gpus = {source.name: await source.read() for source in self._parts.gpus}
        is_heard = False
        for engine in self._detectors:
            signal = self._signal(engine, report, readings.get(engine))
            is_heard = is_heard or signal.is_heard
            await self._move(engine, signal, readings.get(engine))
        if self._open and report is not None:
            try:
                await self._fill(report, readings)
            except CoordinationUnavailable:
                _LOG.warning("bubbles are not filled: no coordination server")
        await self._parts.totals.write_sometimes(num_sent=self._ledger.num_sent)
        return is_heard

    async def _report(self) -> PhaseReport | None:
        clock, report = self._parts.clock, None
        if self._server.is_over(clock.monotonic()):
            try:
                report = await self._parts.coordination.phase()
                self._server.note(is_answered=True, now=clock.monotonic())
            except CoordinationUnavailable:
                self._server.note(is_answered=False, now=clock.monotonic())
        return report

    def _signal(
        self, engine: str, report: PhaseReport | None, reading: LoadReading | None
    ) -> Signal:
        now = self._parts.clock.monotonic()
        signal = make_signal(report, reading, now=now, now_unix=self._parts.clock.unix())
        return replace(signal, gpus=self._gpus_of(engine, now))

    # -- bubbles
    async def _move(self, engine: str, signal: Signal, reading: LoadReading | None) -> None:
        now = signal.now
        if (bubble := self._open.get(engine)) is not None and reading is not None:
            is_training = signal.phase in TRAINER_PHASES
            bubble.account(reading.load, now=now, is_training=is_training)
        detector = advance(self._detectors[engine], signal, self._spec.bubble)
        self._detectors[engine] = detector
        if detector.state is not BubbleState.OPEN:
            if bubble is not None:
                await self._close(engine, detector.reason)
        elif bubble is None:
            await self._open_bubble(engine, detector, signal)
        elif now - bubble.held_at >= HOLD_SECONDS:
            await self._hold(bubble)

    def _gpus_of(self, engine: str, now: float) -> Mapping[str, GPUReading]:
        """By source, as far as it has data; shown on the way."""
        gpus = {source: found[engine] for source, found in self._gpus.items() if engine in found}
        for source, reading in gpus.items():
            if is_fresh(reading, now=now):
                self._parts.log.gpu(engine, source=source, utilization=reading.utilization)
        return gpus

    async def _open_bubble(self, engine: str, detector: Detector, signal: Signal) -> None:
        bubble_type = detector.window.bubble_type if detector.window else "train"
        try:
            epoch = await self._parts.coordination.next_epoch()
        except CoordinationUnavailable:
            return
        bubble = OpenBubble(
            engine=engine,
            epoch=epoch,
            bubble_type=bubble_type,
            step=signal.step,
            opened_at=signal.now,
            opened_at_unix=self._parts.clock.unix(),
            span=self._parts.log.span(
                engine, epoch=epoch, bubble_type=bubble_type, step=signal.step
            ),
            held_at=signal.now,
            seen_at=signal.now,
            confirmed_by=voters(detector.votes, Vote.IDLE),
        )
        self._open[engine] = bubble
        await self._hold(bubble)

    async def _hold(self, bubble: OpenBubble) -> None:
        deadline = self._parts.clock.unix() + BUBBLE_TTL_SECONDS
        try:
            await self._parts.coordination.hold_bubble(
                bubble.engine, Bubble(epoch=bubble.epoch, deadline_at_unix=deadline)
            )
        except CoordinationUnavailable:
            return
        bubble.held_at = self._parts.clock.monotonic()

    async def _close(self, engine: str, reason: str) -> None:
        bubble = self._open.pop(engine)
        try:
            await self._parts.coordination.close_bubble(engine)
        except CoordinationUnavailable:
            _LOG.warning("a bubble is left to expire", extra={"engine": engine})
        self._parts.log.closed(bubble, now=self._parts.clock.monotonic(), reason=reason)

    # -- what fills them
    async def _fill(self, report: PhaseReport, readings: Mapping[str, LoadReading]) -> None:
        self._ledger.begin(step=report.step, policy_version=report.policy_version)
        rooms = await self._rooms(readings)
        if not any(room.num_free_slots for room in rooms):
            return
        chunks = plan_chunks(rooms, await self._demand(report))
        if chunks:
            await self._send(chunks, report)

    async def _rooms(self, readings: Mapping[str, LoadReading]) -> list[Room]:
        rooms = []
        for engine in self._open:
            load = readings[engine].load
            num_policy = load.num_running_policy + load.num_waiting_policy
            num_free = max(0, load.max_num_seqs - load.reserve_slots - num_policy)
            num_queued = await self._parts.dispatcher.num_queued(engine)
            rooms.append(Room(engine, num_free, num_queued + load.num_running_run_ahead))
        return rooms

    async def _demand(self, report: PhaseReport) -> Demand:
        window = await self._parts.coordination.window()
        unfinished = await self._parts.coordination.all_unfinished(report.policy_version)
        epochs = {engine: bubble.epoch for engine, bubble in self._open.items()}
        is_sampling = report.phase == "rollout"
        is_next = report.phase in _NOT_SAMPLED_YET
        return Demand(
            next_step=report.step if is_next else report.step + 1,
            straggling_step=report.step if is_sampling else None,
            policy_version=report.policy_version,
            window=window,
            num_sequences=await self._num_sequences([p.prompt_key for p in window]),
            samples=self._ledger.samples(unfinished, epochs),
            chunk_tokens=self._spec.chunk_tokens,
            num_tokens_left=self._ledger.num_tokens_left(self._spec.max_tokens_per_step),
        )

    async def _num_sequences(self, prompt_keys: Sequence[bytes]) -> Mapping[bytes, int]:
        """What the cache said last; with a cache that is away, nothing counts as covered."""
        now = self._parts.clock.monotonic()
        if self._covered_at is None or now - self._covered_at >= COVERAGE_SECONDS:
            self._covered_at = now
            self._coverage = await self._parts.cache.num_sequences(prompt_keys) or {}
        return self._coverage

    async def _send(self, chunks: Sequence[Chunk], report: PhaseReport) -> None:
        deadline = self._parts.clock.unix() + CHUNK_PATIENCE_SECONDS
        links = [Link(bubble.span.get_span_context()) for bubble in self._open.values()]
        jobs = [self._job_of(chunk, report, deadline) for chunk in chunks]
        with self._parts.tracer.start_as_current_span(names.SPAN_RUNAHEAD_DISPATCH, links=links):
            num_sent = await self._parts.dispatcher.send(jobs)
        for chunk in chunks[:num_sent]:
            bubble = self._open[chunk.engine]
            bubble.num_chunks += 1
            self._ledger.record(chunk, epoch=bubble.epoch)

    def _job_of(self, chunk: Chunk, report: PhaseReport, deadline: float) -> RunaheadJob:
        return RunaheadJob(
            job=self._job,
            engine=chunk.engine,
            epoch=self._open[chunk.engine].epoch,
            prompt_key=chunk.prompt_key.hex(),
            sample=chunk.sample,
            policy_version=report.policy_version,
            chunk_tokens=chunk.max_tokens,
            deadline_at_unix=deadline,
            chunk=chunk.index,
        )


def make_signal(
    report: PhaseReport | None, reading: LoadReading | None, *, now: float, now_unix: float
) -> Signal:
    """One engine's signal; what is missing is infinitely old."""
    load_age = float("inf") if reading is None else now - reading.read_at
    phase_age = float("inf") if report is None else now_unix - report.reported_at_unix
    load = None if reading is None else reading.load
    return Signal(
        now=now,
        phase=None if report is None else report.phase,
        phase_age_seconds=phase_age,
        step=0 if report is None else report.step,
        num_pending=0 if report is None else report.num_pending,
        load_age_seconds=load_age,
        max_num_seqs=1 if load is None else load.max_num_seqs,
        num_running_policy=0 if load is None else load.num_running_policy,
        num_waiting_policy=0 if load is None else load.num_waiting_policy,
        num_running_run_ahead=0 if load is None else load.num_running_run_ahead,
        kv_cache_usage=0.0 if load is None else load.kv_cache_usage,
        is_unavailable=load is not None and (load.is_paused or load.is_draining),
    )
