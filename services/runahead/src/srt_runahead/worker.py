"""The Celery worker of one engine: pool threads wait, one event loop does the work.

* Consumes the engine's own queue and the job's.
* SIGTERM: what runs is aborted at the engine and reported, nothing more is started, the rest goes
  back.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from celery import Celery
from celery.signals import setup_logging, worker_shutting_down
from opentelemetry import metrics, trace
from opentelemetry.trace import Tracer

from srt_common.clock import SystemClock
from srt_common.coordination import Coordination
from srt_common.messages.runahead import RunaheadJob, RunaheadOutcome
from srt_common.task_queue import make_app, queue_of
from srt_common.telemetry import names
from srt_common.telemetry.instruments import RunaheadInstruments
from srt_common.telemetry.propagation import context_of
from srt_runahead.bubble_watch import BubbleWatch
from srt_runahead.gateway_client import GatewayClient
from srt_runahead.generate import ChunkRunner
from srt_runahead.settings import RunaheadSettings
from srt_runahead.tasks import register

_LOG = logging.getLogger(__name__)

MAX_TASK_SECONDS: Final = 60.0
"""A pool thread gives up on the event loop after this; never in practice."""

Result = TypeVar("Result")


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="srt-runahead-loop", daemon=True
        )
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run to its end in the loop; blocks the calling thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(MAX_TASK_SECONDS)

    def close(self) -> None:
        """Stop the loop; nothing may be running in it."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Worker:
    """Everything between a queue and an engine, wired once."""

    def __init__(self, settings: RunaheadSettings) -> None:
        self._settings = settings
        self._loop = LoopThread()
        self._coordination, self._gateway, self._runner = self._loop.call(self._wire())
        self._tracer: Tracer = trace.get_tracer("srt_runahead")
        self._instruments = RunaheadInstruments.of(metrics.get_meter("srt_runahead"))

    async def _wire(self) -> tuple[Coordination, GatewayClient, ChunkRunner]:
        settings, clock = self._settings, SystemClock()
        coordination = Coordination.from_url(
            settings.coordination_url.get_secret_value(), job=settings.job
        )
        gateway = GatewayClient.to(
            settings.gateway_url, engine=settings.engine_name, token_file=settings.token_file
        )
        watch = BubbleWatch(
            lambda: coordination.bubble(settings.engine_name),
            interval_seconds=settings.poll_interval_seconds,
            clock=clock,
        )
        runner = ChunkRunner(
            coordination,
            gateway,
            watch,
            chunk_timeout_seconds=settings.chunk_timeout_seconds,
            clock=clock,
        )
        return coordination, gateway, runner

    def serve(self) -> int:
        """Consume until SIGTERM or SIGINT; the exit status."""
        app = make_app(
            self._settings.broker_url.get_secret_value(),
            visibility_timeout_seconds=self._settings.visibility_timeout_seconds,
        )
        register(app, self.run)
        setup_logging.connect(_keep_logging, weak=False)
        worker_shutting_down.connect(self._stop, weak=False)
        worker = self._celery_worker(app)
        _LOG.info("serving")
        worker.start()
        self._loop.call(self._close())
        self._loop.close()
        return int(worker.exitcode or 0)

    def run(self, job: RunaheadJob, task: str, traceparent: str | None) -> RunaheadOutcome:
        """One chunk under its span; called from a pool thread."""
        with self._tracer.start_as_current_span(
            names.SPAN_RUNAHEAD_GENERATE,
            context=context_of(traceparent),
            attributes={
                names.ATTR_ENGINE_NAME: job.engine,
                names.ATTR_PROMPT_KEY: job.prompt_key,
                names.ATTR_BUBBLE_EPOCH: job.epoch,
                names.ATTR_POLICY_VERSION: job.policy_version,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            outcome = self._loop.call(self._runner.run(job, task))
            span.set_attribute(names.ATTR_RUNAHEAD_RESULT, outcome.result)
            span.set_attribute(names.ATTR_OUTPUT_TOKENS, outcome.num_tokens)
        self._count(outcome)
        return outcome

    def _count(self, outcome: RunaheadOutcome) -> None:
        self._instruments.tasks.add(1, {names.ATTR_RUNAHEAD_RESULT: outcome.result})
        self._instruments.tokens.add(outcome.num_tokens)
        if outcome.abort_seconds is not None:
            self._instruments.abort_duration.record(outcome.abort_seconds)
        if outcome.result == "failed":
            self._instruments.dead_letters.add(1)

    def _celery_worker(self, app: Celery) -> Any:
        job, engine = self._settings.job, self._settings.engine_name
        return app.Worker(
            hostname=f"srt-runahead@{engine}",
            pool="threads",
            concurrency=self._settings.concurrency,
            queues=[queue_of(job, engine), queue_of(job)],
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel="WARNING",
            quiet=True,
        )

    def _stop(self, **_signal: object) -> None:
        self._loop.loop.call_soon_threadsafe(self._runner.stop)

    async def _close(self) -> None:
        await self._gateway.close()
        await self._coordination.close()


def _keep_logging(**_signal: object) -> None:
    """Celery leaves logging alone while this is connected."""
