"""Wires the run-ahead loop of a job."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from opentelemetry import metrics, trace

from srt_common.clock import SystemClock
from srt_common.coordination import Coordination
from srt_common.errors import CoordinationUnavailable
from srt_common.telemetry.setup import TelemetrySettings, build
from srt_operator.background import going_on
from srt_operator.http_client import plain_client
from srt_operator.manifests.process import LocalSite, Site
from srt_operator.processes import Component, members
from srt_operator.resources import SRTJob, SRTJobSpec
from srt_operator.run_lines import Line
from srt_operator.runahead.bubble_log import BubbleLog
from srt_operator.runahead.controller import Controller, Parts
from srt_operator.runahead.coverage import TreeCacheClient
from srt_operator.runahead.dispatch import CeleryDispatcher
from srt_operator.runahead.totals import TotalsLog
from srt_operator.signals.base import GPUSource
from srt_operator.signals.nvml import NVML
from srt_operator.signals.prometheus import Prometheus
from srt_operator.signals.rollout_pods import RolloutPods

_LOG = logging.getLogger(__name__)


def urls(job: SRTJob, site: Site, component: Component) -> dict[str, str]:
    """Base URLs of one component's members, by name."""
    found = [member for member in members(job.spec) if member.component is component]
    return {member.name: site.url(member.name) for member in found}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the run-ahead loop of a job finds what it talks to."""

    job_id: str
    job_name: str
    engines: Mapping[str, str]
    """Base URLs of gateways, by engine."""
    caches: Sequence[str]
    """Base URLs of tree cache replicas."""
    cache_token: Callable[[], str]
    server_url: str
    broker_url: str
    telemetry: Path | None
    """Folder for spans and metrics; None: this process's own providers."""
    prometheus_url: str = ""
    """Knows the engines' GPUs by the pods' names; empty: there is none."""
    namespace: str = ""
    """Of the pods."""

    def is_like(self, other: Place) -> bool:
        """Whether it is the same job with the same engines and caches."""
        mine, others = ((p.job_id, p.engines, p.caches) for p in (self, other))
        return mine == others


def local_place(job: SRTJob, site: LocalSite) -> Place:
    """Of a run on this machine."""
    return Place(
        job_id=site.job_id,
        job_name=site.job_name,
        engines=urls(job, site, Component.ROLLOUT),
        caches=list(urls(job, site, Component.TREE_CACHE).values()),
        cache_token=token_in(site.cache_token),
        server_url=site.server_url,
        broker_url=site.broker_url,
        telemetry=site.layout.telemetry,
    )


def token_in(file: Path) -> Callable[[], str]:
    """Reads a token anew each time."""
    return lambda: file.read_text().strip()


@asynccontextmanager
async def run_ahead(
    spec: SRTJobSpec, place: Place, *, write: Callable[[Line], None], is_new: bool
) -> AsyncIterator[Controller]:
    """The controller of a job, with its connections for as long as the block lasts.

    Args:
        spec: what to do.
        place: where.
        write: gets a line for each bubble, and one for the totals every so often.
        is_new: forget what an earlier run of the same name left on the server.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(plain_client())
        coordination = Coordination.from_url(place.server_url, job=place.job_id)
        stack.push_async_callback(coordination.close)
        if is_new:
            with suppress(CoordinationUnavailable):
                await coordination.forget_job()
        dispatcher = CeleryDispatcher(place.broker_url, job=place.job_id)
        stack.push_async_callback(dispatcher.close)
        tracer, meter = _instruments(spec, place, stack)
        cache = TreeCacheClient(client, place.caches, token=place.cache_token)
        pods = RolloutPods(client, place.engines, clock)
        stack.push_async_callback(pods.close)
        yield Controller(
            place.job_id,
            spec.run_ahead,
            list(place.engines),
            Parts(
                coordination=coordination,
                loads=pods,
                gpus=[source async for source in _gpus(spec, place, pods, stack)],
                cache=cache,
                dispatcher=dispatcher,
                log=BubbleLog(write, tracer=tracer, meter=meter),
                totals=TotalsLog(write, coordination=coordination, cache=cache, clock=clock),
                tracer=tracer,
                clock=clock,
            ),
        )


async def _gpus(
    spec: SRTJobSpec,
    place: Place,
    pods: RolloutPods,
    stack: AsyncExitStack,
) -> AsyncIterator[GPUSource]:
    """The sources of GPU utilisation that the job names and the place has."""
    sources = spec.run_ahead.bubble.sources
    if "NVML" in sources:
        yield NVML(pods)
    if "Prometheus" in sources and not place.prometheus_url:
        _LOG.warning("no Prometheus to ask: that source abstains", extra={"job": place.job_name})
    elif "Prometheus" in sources:
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        prometheus = Prometheus(
            client,
            place.prometheus_url,
            namespace=place.namespace,
            engines=list(place.engines),
            clock=SystemClock(),
        )
        await stack.enter_async_context(going_on(prometheus.run(), "GPU utilisation"))
        yield prometheus


def _instruments(
    spec: SRTJobSpec, place: Place, stack: AsyncExitStack
) -> tuple[trace.Tracer, metrics.Meter]:
    tracers: trace.TracerProvider = trace.get_tracer_provider()
    meters: metrics.MeterProvider = metrics.get_meter_provider()
    if place.telemetry is not None:
        settings = TelemetrySettings(
            dir=place.telemetry,
            job_name=place.job_name,
            trace_sample_ratio=spec.telemetry.trace_sample_ratio,
        )
        telemetry = build("srt-operator", instance="", settings=settings)
        stack.callback(telemetry.close)
        tracers, meters = telemetry.tracer_provider or tracers, telemetry.meter_provider or meters
    return tracers.get_tracer("srt_operator"), meters.get_meter("srt_operator")
