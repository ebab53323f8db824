"""Wires the run-ahead loop of a job that runs on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
from opentelemetry import metrics, trace

from srt_common.clock import SystemClock
from srt_common.coordination import Coordination
from srt_common.errors import CoordinationUnavailable
from srt_common.telemetry.setup import TelemetrySettings, build
from srt_operator.manifests.process import Site
from srt_operator.processes import Component, members
from srt_operator.resources import SRTJob
from srt_operator.runahead.bubble_log import BubbleLog
from srt_operator.runahead.controller import Controller, Parts
from srt_operator.runahead.coverage import TreeCacheClient
from srt_operator.runahead.dispatch import CeleryDispatcher
from srt_operator.runahead.totals import TotalsLog
from srt_operator.signals.rollout_pods import RolloutPods


def urls(job: SRTJob, site: Site, component: Component) -> dict[str, str]:
    """Base URLs of one component's members, by name."""
    found = [member for member in members(job.spec) if member.component is component]
    return {member.name: site.url(member.name) for member in found}


@asynccontextmanager
async def run_ahead(job: SRTJob, site: Site) -> AsyncIterator[Controller]:
    """The controller of a run, with its connections for as long as the block lasts."""
    name, clock = job.metadata.name, SystemClock()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, verify=False))
        coordination = Coordination.from_url(site.server_url, job=name)
        stack.push_async_callback(coordination.close)
        if job.spec.tree_cache.cache.redis is not None:  # what an earlier run left there
            with suppress(CoordinationUnavailable):
                await coordination.forget_job()
        dispatcher = CeleryDispatcher(site.broker_url, job=name)
        stack.push_async_callback(dispatcher.close)
        telemetry = build("srt-operator", instance="", settings=_telemetry_settings(job, site))
        stack.callback(telemetry.close)
        cache = TreeCacheClient(
            client,
            list(urls(job, site, Component.TREE_CACHE).values()),
            token_file=site.layout.token,
        )
        engines = urls(job, site, Component.ROLLOUT)
        tracers = telemetry.tracer_provider or trace.get_tracer_provider()
        meters = telemetry.meter_provider or metrics.get_meter_provider()
        tracer, meter = tracers.get_tracer("srt_operator"), meters.get_meter("srt_operator")
        lines = site.layout.bubbles
        yield Controller(
            name,
            job.spec.run_ahead,
            list(engines),
            Parts(
                coordination=coordination,
                loads=RolloutPods(client, engines, clock),
                cache=cache,
                dispatcher=dispatcher,
                log=BubbleLog(lines, tracer=tracer, meter=meter),
                totals=TotalsLog(lines, coordination=coordination, cache=cache, clock=clock),
                tracer=tracer,
                clock=clock,
            ),
        )


def _telemetry_settings(job: SRTJob, site: Site) -> TelemetrySettings:
    return TelemetrySettings(
        dir=site.layout.telemetry,
        job_name=job.metadata.name,
        trace_sample_ratio=job.spec.telemetry.trace_sample_ratio,
    )
