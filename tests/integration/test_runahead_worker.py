"""The run-ahead worker as a process: Celery over a real server, the real gateway, a fake engine.

Promises 4, 5, 7 and 10: delivered twice or after a crash it is harmless, a closed bubble ends it in
time, SIGTERM leaves nothing running, and only JSON is read.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from srt_common.coordination import Bubble, Coordination, RunaheadTotals, WindowPrompt
from srt_common.keys import PromptKey
from srt_common.messages.runahead import RUNAHEAD_TASK, RunaheadJob
from srt_common.task_queue import make_app, queue_of, send_runahead
from srt_common.telemetry.span_file import read_spans
from srt_runahead.worker import LoopThread
from support.redis_server import RedisServer
from support.runahead_process import Engine, WorkerProcess, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(90)]

KEY = PromptKey(bytes.fromhex("ab" * 16))
PROMPT = [1, 2, 3]
EPOCH = 5
JOB = "tiny-math"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer.started() as server:
        yield server


@pytest.fixture
async def coordination(server: RedisServer) -> AsyncIterator[Coordination]:
    """A window of one prompt."""
    job = Coordination.from_url(server.url, job=JOB)
    await job.publish_window([WindowPrompt(KEY, 2, 4, max_tokens=20)], [PROMPT])
    yield job
    await job.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.served(tmp_path / "gateway") as engine:
        yield engine


class BubbleHolder:
    """Holds engine-0's bubble open from a thread, as the operator does."""

    def __init__(self, server: RedisServer) -> None:
        self._thread = LoopThread()
        self._coordination = Coordination.from_url(server.url, job=JOB)
        self._holding: Future[None] | None = None

    def open(self, epoch: int) -> None:
        """Returns once the bubble is open."""
        bubble = Bubble(epoch=epoch, deadline_at_unix=time.time() + 60)
        self._thread.call(self._coordination.hold_bubble("engine-0", bubble))
        self._holding = asyncio.run_coroutine_threadsafe(self._hold(bubble), self._thread.loop)

    def close(self) -> None:
        """Returns once the bubble is closed."""
        if self._holding is not None:
            self._holding.cancel()
            self._thread.call(self._coordination.close_bubble("engine-0"))
            self._holding = None

    def end(self) -> None:
        self.close()
        self._thread.call(self._coordination.close())
        self._thread.close()

    async def _hold(self, bubble: Bubble) -> None:
        while True:
            await self._coordination.hold_bubble("engine-0", bubble)
            await asyncio.sleep(0.2)


@pytest.fixture
def bubble(server: RedisServer) -> Iterator[BubbleHolder]:
    """An open bubble."""
    bubble = BubbleHolder(server)
    bubble.open(EPOCH)
    yield bubble
    bubble.end()


@pytest.fixture
def worker(
    server: RedisServer, engine: Engine, bubble: BubbleHolder, tmp_path: Path
) -> Iterator[WorkerProcess]:
    with WorkerProcess.started(server, engine, tmp_path, job=JOB) as worker:
        yield worker


async def wait_for_totals(coordination: Coordination, **results: int) -> RunaheadTotals:
    deadline = time.monotonic() + 20
    while (totals := await coordination.outcomes()).num_results != results:
        assert time.monotonic() < deadline, f"{totals} never became {results}"
        time.sleep(0.05)  # noqa: ASYNC251 - the worker is another process
    return totals


def send(server: RedisServer, *, expires_in: float = 60, **changes: Any) -> str:
    given: dict[str, Any] = {
        "job": JOB,
        "engine": "engine-0",
        "epoch": EPOCH,
        "prompt_key": KEY.hex(),
        "sample": 0,
        "policy_version": 4,
        "chunk_tokens": 8,
        "deadline_at_unix": time.time() + 60,
    }
    app = make_app(server.broker_url, visibility_timeout_seconds=2)
    queue = changes.pop("queue", queue_of(JOB, "engine-0"))
    return send_runahead(
        app, RunaheadJob(**(given | changes)), queue=queue, expires_at_unix=time.time() + expires_in
    )


async def test_chunks_of_both_queues_are_done(
    server: RedisServer, engine: Engine, worker: WorkerProcess, coordination: Coordination
) -> None:
    engine.vllm.answer_after_seconds = 0.0
    send(server, sample=0)
    send(server, sample=1, queue=queue_of(JOB))
    totals = await wait_for_totals(coordination, completed=2)
    assert totals.num_tokens == 16
    assert [body["token_ids"] for body in engine.vllm.bodies.values()] == [PROMPT] * 2


async def test_a_closed_bubble_empties_the_engine_within_500_ms_and_fences_what_is_queued(
    server: RedisServer,
    engine: Engine,
    worker: WorkerProcess,
    coordination: Coordination,
    bubble: BubbleHolder,
) -> None:
    for sample in range(3):
        send(server, sample=sample)
    engine.wait_running(3)
    closed_at = time.monotonic()
    bubble.close()
    wait_until(lambda: engine.vllm.num_running == 0, "an empty engine", seconds=2)
    assert time.monotonic() - closed_at < 0.5
    bubble.open(EPOCH + 1)
    send(server, sample=3)
    totals = await wait_for_totals(coordination, aborted=3, expired=1)
    assert totals.num_tokens == 6
    assert max(totals.abort_seconds) < 0.5


async def test_expired_and_duplicate_tasks_never_reach_the_engine(
    server: RedisServer, engine: Engine, worker: WorkerProcess, coordination: Coordination
) -> None:
    send(server, sample=0, expires_in=-1)
    send(server, sample=1)
    engine.wait_running(1)
    send(server, sample=1)
    await wait_for_totals(coordination, duplicate=1)
    [body] = engine.vllm.bodies.values()
    assert ":1:" in body["request_id"]


async def test_sigterm_aborts_what_runs_and_ends_the_worker_within_five_seconds(
    server: RedisServer, engine: Engine, worker: WorkerProcess, coordination: Coordination
) -> None:
    send(server, sample=0)
    engine.wait_running(1)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(5) == 0
    assert engine.vllm.num_running == 0
    totals = await coordination.outcomes()
    assert (totals.num_results, totals.num_tokens) == ({"aborted": 1}, 2)
    assert len(await coordination.all_unfinished(4)) == 1


async def test_a_killed_workers_chunk_comes_back_and_is_harmless(
    server: RedisServer,
    engine: Engine,
    worker: WorkerProcess,
    coordination: Coordination,
    tmp_path: Path,
) -> None:
    send(server, sample=0)
    engine.wait_running(1)
    worker.process.kill()
    worker.process.wait()
    wait_until(lambda: engine.vllm.num_running == 0, "the gateway to abort for the lost client")
    (tmp_path / "second").mkdir()
    engine.vllm.answer_after_seconds = 0.0
    with WorkerProcess.started(server, engine, tmp_path / "second", job=JOB):
        await wait_for_totals(coordination, completed=1)
    first, second = engine.vllm.bodies
    assert first != second, "each attempt has its own id"


async def test_a_pickled_message_and_foreign_tasks_are_refused_and_the_worker_goes_on(
    server: RedisServer,
    engine: Engine,
    worker: WorkerProcess,
    coordination: Coordination,
    tmp_path: Path,
) -> None:
    trap = tmp_path / "trap"
    app = make_app(server.broker_url)
    app.conf.update(task_serializer="pickle", accept_content=["pickle", "json"])
    queue = queue_of(JOB, "engine-0")
    app.send_task(RUNAHEAD_TASK, args=[Trap(trap)], queue=queue, serializer="pickle")
    app.send_task("os.system", args=["touch"], queue=queue, serializer="json")
    app.send_task(RUNAHEAD_TASK, args=[{"__reduce__": "x"}], queue=queue, serializer="json")
    engine.vllm.answer_after_seconds = 0.0
    send(server, sample=0)
    await wait_for_totals(coordination, completed=1)
    assert not trap.exists()
    assert worker.process.poll() is None


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._file),)


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "trap")))
    assert (tmp_path / "trap").exists()


async def test_a_chunks_span_is_the_child_of_its_dispatch_and_holds_no_tokens(
    server: RedisServer, engine: Engine, worker: WorkerProcess, coordination: Coordination
) -> None:
    engine.vllm.answer_after_seconds = 0.0
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("runahead.dispatch") as dispatch:
        send(server, sample=0)
    await wait_for_totals(coordination, completed=1)
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(5)
    [span] = [
        span
        for file in worker.folder.glob("srt-runahead-*.jsonl")
        if "metrics" not in file.name
        for span in read_spans(file)
        if span.name == "runahead.generate"
    ]
    context = dispatch.get_span_context()
    assert span.trace_id == trace.format_trace_id(context.trace_id)
    assert span.parent_span_id == trace.format_span_id(context.span_id)
    assert span.attributes["srt.runahead.result"] == "completed"
    [headers] = engine.vllm.headers.values()
    assert span.trace_id in headers["traceparent"]
    assert str(PROMPT) not in worker.log
