"""The run-ahead loop on fakes: bubbles are opened, held, filled, closed and written down; without
the coordination server nothing stays open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.trace import NoOpTracer

from srt_common.coordination import (
    Bubble,
    Coordination,
    Phase,
    PhaseReport,
    RunaheadTotals,
    UnfinishedSample,
    WindowPrompt,
)
from srt_common.errors import CoordinationUnavailable
from srt_common.messages.rollouts import EngineLoad
from srt_common.messages.runahead import RunaheadJob
from srt_common.telemetry.names import METRIC_GPU_UTILIZATION
from srt_operator.resources import BubbleSpec, RunAheadSpec
from srt_operator.run_lines import append_line, of_kind, read_lines
from srt_operator.runahead.bubble_log import BubbleLog
from srt_operator.runahead.controller import Controller, Parts
from srt_operator.runahead.coverage import TreeCacheClient
from srt_operator.runahead.totals import TotalsLog
from srt_operator.signals.base import GPUReading, LoadReading
from support.otel import RecordedTelemetry

SPEC = RunAheadSpec(
    reserveSlots=1,
    chunkTokens=16,
    bubble=BubbleSpec(
        openAfterSeconds=0.5, minRemainingSeconds=1.0, cooldownSeconds=0.0, learnSteps=0
    ),
)
KEY = bytes(range(16))


@dataclass
class ManualClock:
    """A clock that the test moves."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return 1_000_000.0 + self.now


@dataclass
class Board:
    """The coordination server, in memory."""

    clock: ManualClock
    phase_now: Phase = "train"
    step: int = 4
    is_away: bool = False
    has_trainer: bool = True
    bubbles: dict[str, Bubble] = field(default_factory=dict)
    num_holds: int = 0
    num_asked: int = 0
    epoch: int = 0
    num_results: dict[str, int] = field(default_factory=dict)

    def _check(self) -> None:
        if self.is_away:
            raise CoordinationUnavailable(address="test", reason="away")

    async def phase(self) -> PhaseReport | None:
        self.num_asked += 1
        self._check()
        if not self.has_trainer:
            return None
        return PhaseReport(self.phase_now, self.step, 4, 0, self.clock.unix())

    async def window(self) -> list[WindowPrompt]:
        self._check()
        return [WindowPrompt(KEY, 5, num_rollouts=8, max_tokens=64)]

    async def all_unfinished(self, _policy_version: int) -> list[UnfinishedSample]:
        self._check()
        return []

    async def next_epoch(self) -> int:
        self._check()
        self.epoch += 1
        return self.epoch

    async def hold_bubble(self, engine: str, bubble: Bubble) -> None:
        self._check()
        self.num_holds += 1
        self.bubbles[engine] = bubble

    async def close_bubble(self, engine: str) -> None:
        self._check()
        self.bubbles.pop(engine, None)

    async def outcomes(self) -> RunaheadTotals:
        self._check()
        return RunaheadTotals(self.num_results, 40, 1, (0.1, 0.2))


@dataclass
class Pods:
    """Engines whose load the test sets."""

    clock: ManualClock
    num_running_policy: int = 0
    num_running_run_ahead: int = 0
    num_read: int = 0
    is_away: bool = False

    async def read(self) -> Mapping[str, LoadReading]:
        self.num_read += 1
        if self.is_away:
            return {}
        load = EngineLoad(
            "rollout-0", 4, 8, 1, self.num_running_policy, 0, self.num_running_run_ahead
        )
        return {"rollout-0": LoadReading(load, self.clock.monotonic())}


@dataclass
class GPU:
    """A source of GPU utilisation; None: without data."""

    clock: ManualClock
    utilization: float | None = None
    name: str = "Prometheus"

    async def read(self) -> Mapping[str, GPUReading]:
        if self.utilization is None:
            return {}
        return {"rollout-0": GPUReading(self.utilization, self.clock.monotonic())}


@dataclass
class Queue:
    """Takes chunks and keeps them."""

    sent: list[RunaheadJob] = field(default_factory=list)
    num_waiting: int = 0

    async def send(self, jobs: Sequence[RunaheadJob]) -> int:
        self.sent += jobs
        return len(jobs)

    async def num_queued(self, _engine: str) -> int:
        return self.num_waiting


class Cache:
    """A tree cache that holds nothing but has been useful."""

    async def num_sequences(self, _prompt_keys: Sequence[bytes]) -> Mapping[bytes, int]:
        return {}

    async def num_run_ahead_tokens_used(self) -> int:
        return 12


@dataclass
class Loop:
    """A controller with its fakes."""

    path: Path
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.board, self.pods, self.queue = Board(self.clock), Pods(self.clock), Queue()
        self.gpu, self.telemetry = GPU(self.clock), RecordedTelemetry()
        coordination = cast(Coordination, self.board)
        cache = cast(TreeCacheClient, Cache())
        parts = Parts(
            coordination=coordination,
            loads=self.pods,
            gpus=[self.gpu],
            cache=cache,
            dispatcher=self.queue,
            log=BubbleLog(
                partial(append_line, self.path), tracer=NoOpTracer(), meter=self.telemetry.meter
            ),
            totals=TotalsLog(
                partial(append_line, self.path),
                coordination=coordination,
                cache=cache,
                clock=self.clock,
            ),
            tracer=NoOpTracer(),
            clock=self.clock,
        )
        self.controller = Controller("sums", SPEC, ["rollout-0"], parts)

    async def run(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.2)):
            await self.controller.tick()
            self.clock.now += 0.2

    async def run_as_due(self, seconds: float) -> None:
        """Looks when the controller itself says so."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += await self.controller.tick()

    async def until_open(self) -> None:
        """Let an idle window of the same kind be seen first: bubbles open by experience."""
        await self.run(60.0)
        self.board.phase_now = "weight_sync"
        await self.run(0.2)
        self.board.phase_now = "train"
        await self.run(2.0)
        assert "rollout-0" in self.board.bubbles

    def lines(self, kind: str) -> list[dict[str, Any]]:
        return of_kind(read_lines(self.path), kind)


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(tmp_path / "bubbles.jsonl")


async def test_an_idle_engine_is_filled_with_chunks_for_the_next_step(loop: Loop) -> None:
    await loop.until_open()
    job = loop.queue.sent[0]
    assert (job.job, job.engine, job.policy_version) == ("sums", "rollout-0", 4)
    assert (job.prompt_key, job.chunk_tokens) == (KEY.hex(), 16)
    assert job.epoch == loop.board.bubbles["rollout-0"].epoch
    assert [sent.sample for sent in loop.queue.sent[:14]] == list(range(14))


async def test_a_queue_that_is_long_enough_gets_no_more(loop: Loop) -> None:
    loop.queue.num_waiting = 14
    await loop.until_open()
    assert loop.queue.sent == []


async def test_an_open_bubble_is_held_about_once_a_second(loop: Loop) -> None:
    await loop.until_open()
    before = loop.board.num_holds
    await loop.run(10.0)
    assert 8 <= loop.board.num_holds - before <= 11
    held = loop.board.bubbles["rollout-0"]
    assert 1.5 < held.deadline_at_unix - loop.clock.unix() <= 3


async def test_policy_work_closes_a_bubble_and_writes_it_down(loop: Loop) -> None:
    await loop.until_open()
    loop.pods.num_running_run_ahead = 7
    await loop.run(2.0)
    loop.pods.num_running_policy = 8
    await loop.run(0.2)
    assert loop.board.bubbles == {}
    [line] = loop.lines("bubble")
    assert line["engine"] == "rollout-0"
    assert line["type"] == "train"
    assert line["closed_by"] == "policy rollouts run"
    assert line["num_chunks"] == len(loop.queue.sent)
    assert line["free_slot_seconds"] == pytest.approx(8 * line["seconds"], rel=0.1)
    assert line["run_ahead_slot_seconds"] == pytest.approx(7 * 2.0, rel=0.15)
    assert line["run_ahead_slot_seconds_in_training"] == line["run_ahead_slot_seconds"]


async def test_each_bubble_has_an_epoch_of_its_own(loop: Loop) -> None:
    await loop.until_open()
    first = loop.board.bubbles["rollout-0"].epoch
    loop.pods.num_running_policy = 8
    await loop.run(0.4)
    loop.pods.num_running_policy = 0
    await loop.run(2.0)
    assert loop.board.bubbles["rollout-0"].epoch == first + 1


async def test_without_the_coordination_server_nothing_stays_open(loop: Loop) -> None:
    await loop.until_open()
    num_sent = len(loop.queue.sent)
    loop.board.is_away = True
    await loop.run(2.0)
    assert len(loop.lines("bubble")) == 1
    assert len(loop.queue.sent) == num_sent
    loop.board.is_away = False
    await loop.run(2.0)
    assert "rollout-0" in loop.board.bubbles


async def test_the_end_of_a_job_closes_bubbles_and_writes_the_totals(loop: Loop) -> None:
    await loop.until_open()
    loop.board.num_results = {"completed": 5, "aborted": 2, "failed": 1, "expired": 3}
    await loop.controller.finish()
    assert loop.board.bubbles == {}
    totals = loop.lines("runahead")[-1]["totals"]
    assert totals["num_chunks"] == 8
    assert totals["num_expired"] == 3
    assert totals["num_tokens"] == 40
    assert totals["num_tokens_drafted_from"] == 12
    assert totals["num_sent"] == len(loop.queue.sent)
    assert loop.lines("runahead")[-1]["abort_seconds"] == [0.1, 0.2]


async def test_totals_go_on_growing_when_the_server_forgets(loop: Loop) -> None:
    loop.board.num_results = {"completed": 5}
    await loop.controller.finish()
    loop.board.num_results = {"completed": 2}
    await loop.controller.finish()
    assert loop.lines("runahead")[-1]["totals"]["num_completed"] == 7


async def test_after_the_end_nothing_is_opened_any_more(loop: Loop) -> None:
    await loop.until_open()
    await loop.controller.finish()
    num_sent = len(loop.queue.sent)
    await loop.run(5.0)
    assert loop.board.bubbles == {}
    assert len(loop.queue.sent) == num_sent


async def test_a_gpu_that_others_use_keeps_a_bubble_shut_and_is_shown(loop: Loop) -> None:
    await loop.run(60.0)
    loop.gpu.utilization = 0.75
    loop.board.phase_now = "weight_sync"
    await loop.run(0.2)
    loop.board.phase_now = "train"
    await loop.run(20.0)
    assert loop.board.bubbles == {}
    assert loop.controller.gpu_utilization() == 0.75
    attributes = {"srt.engine.name": "rollout-0", "srt.gpu.source": "Prometheus"}
    assert loop.telemetry.value(METRIC_GPU_UTILIZATION, attributes) == 0.75


async def test_a_gpu_without_data_neither_confirms_nor_is_shown(loop: Loop) -> None:
    await loop.until_open()
    await loop.controller.finish()
    assert loop.lines("bubble")[-1]["confirmed_by"] == []
    assert loop.controller.gpu_utilization() is None


async def test_who_confirmed_a_bubble_is_written_down(loop: Loop) -> None:
    loop.gpu.utilization = 0.0
    await loop.until_open()
    await loop.controller.finish()
    assert loop.lines("bubble")[-1]["confirmed_by"] == ["Prometheus"]


async def test_a_job_that_can_have_bubbles_is_looked_at_ten_times_a_second(loop: Loop) -> None:
    await loop.run_as_due(60.0)
    assert 595 <= loop.pods.num_read <= 605
    assert loop.board.num_asked == loop.pods.num_read


async def test_a_job_without_a_trainer_or_an_engine_is_looked_at_once_a_second(loop: Loop) -> None:
    loop.board.has_trainer = False
    await loop.run_as_due(60.0)
    assert loop.pods.num_read == 60
    loop.board.has_trainer, loop.pods.is_away = True, True
    await loop.run_as_due(60.0)
    assert loop.pods.num_read == 120
    loop.pods.is_away = False
    await loop.run_as_due(11.0)
    assert 225 <= loop.pods.num_read <= 235


async def test_a_server_that_is_away_is_asked_less_and_less_often(loop: Loop) -> None:
    loop.board.is_away = True
    await loop.run_as_due(60.0)
    assert 12 <= loop.board.num_asked <= 25
    loop.board.is_away = False
    await loop.run_as_due(7.0)
    before = loop.board.num_asked
    await loop.run_as_due(1.0)
    assert 9 <= loop.board.num_asked - before <= 11
