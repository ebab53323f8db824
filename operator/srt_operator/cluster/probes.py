"""The operator over HTTP: ``/livez``, ``/readyz``, ``/metrics``, and what engines do now.

* Alive: the process answers. Ready: it can do its part, be that acting or standing by.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.web import json_response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from srt_common.clock import Clock
from srt_operator.backends.kubernetes_api import Calls
from srt_operator.cluster.queue import WorkQueue
from srt_operator.cluster.store import Key
from srt_operator.constants import ENGINES_PATH
from srt_operator.run_lines import Line

SILENT_SECONDS: Final = 20.0
"""An API server that has not answered for longer is away; a lease is asked for every 2 s."""
BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    *(1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 60.0),
)
"""Seconds: as fine around one as those of controller-runtime."""


class Metrics:
    """What the operator counts of itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.is_leading = Gauge(
            "srt_operator_leading", "1: this replica acts", registry=self.registry
        )
        self.looks = Histogram(
            "srt_operator_reconcile_duration_seconds",
            "Duration of one look at one resource, without its wait for a turn",
            ["kind"],
            registry=self.registry,
            buckets=BUCKETS,
        )
        self.waits = Histogram(
            "srt_operator_queue_wait_seconds",
            "From when a look is due until it begins",
            registry=self.registry,
            buckets=BUCKETS,
        )
        self.api_calls = Counter(
            "srt_operator_api_calls", "Calls of the Kubernetes API", registry=self.registry
        )
        self.queued = Gauge(
            "srt_operator_queue_length", "Resources to look at", registry=self.registry
        )
        self.forbidden = Gauge(
            "srt_operator_forbidden_namespaces",
            "Watched namespaces that refuse: deleted, or without the operator's rights",
            registry=self.registry,
        )
        self._num_calls = 0

    def observe_look(self, kind: str, seconds: float) -> None:
        """A look at a resource ended."""
        self.looks.labels(kind).observe(seconds)

    def refresh(self, calls: Sequence[Calls], queue: WorkQueue[Key]) -> None:
        """Take in what others count: each connection its calls."""
        num_calls = sum(each.number for each in calls)
        self.api_calls.inc(num_calls - self._num_calls)
        self._num_calls = num_calls
        self.queued.set(len(queue))


class Health:
    """Whether a replica can do its part."""

    def __init__(self, calls: Calls, clock: Clock) -> None:
        """``calls``: of the connection that asks for the lease."""
        self._calls = calls
        self._clock = clock
        self._parts: list[Callable[[], str | None]] = []

    def ask(self, part: Callable[[], str | None]) -> None:
        """Ask this part, too, what is wrong with it; None: nothing."""
        self._parts.append(part)

    def fault(self) -> str | None:
        """Why it cannot, for people; None: it can."""
        answered_at = self._calls.answered_at
        if answered_at is None:
            return "the API server has not answered yet"
        silent = self._clock.monotonic() - answered_at
        if silent >= SILENT_SECONDS:
            return f"the API server has not answered for {silent:.0f} s"
        return next((fault for part in self._parts if (fault := part())), None)


@asynccontextmanager
async def serving(
    host: str,
    port: int,
    *,
    metrics: Metrics,
    refresh: Callable[[], None],
    health: Health,
    engines: Callable[[str, str], Line | None],
) -> AsyncIterator[None]:
    """Serve inside the block.

    Args:
        host: where.
        port: there.
        metrics: what is counted.
        refresh: called before metrics are read.
        health: what ``/readyz`` says.
        engines: the last line of a job's engine counters by namespace and name; None: this replica
            accompanies no such job.
    """

    async def fine(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_request: web.Request) -> web.Response:
        fault = health.fault()
        return web.Response(text=f"{fault or 'ok'}\n", status=503 if fault else 200)

    async def numbers(_request: web.Request) -> web.Response:
        refresh()
        return web.Response(
            body=generate_latest(metrics.registry),
            headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4},
        )

    async def now(request: web.Request) -> web.Response:
        line = engines(request.match_info["namespace"], request.match_info["job"])
        return web.Response(status=HTTPStatus.NOT_FOUND) if line is None else json_response(line)

    app = web.Application()
    app.add_routes(
        [
            web.get("/livez", fine),
            web.get("/readyz", ready),
            web.get("/metrics", numbers),
            web.get(ENGINES_PATH, now),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()
