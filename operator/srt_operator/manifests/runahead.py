"""The run-ahead worker beside an engine of a run."""

from __future__ import annotations

from typing import Final

from srt_operator.manifests.process import LocalProcess, Site, shared
from srt_operator.processes import Component, Member, members
from srt_operator.resources import SRTJob

MAX_CONCURRENCY: Final = 256


def local(job: SRTJob, site: Site, member: Member) -> LocalProcess:
    """One Celery worker."""
    engine = engine_of(job, member)
    return LocalProcess(
        name=member.name,
        command=(site.python, "-m", "srt_runahead"),
        environment=shared(job, site)
        | {
            "SRT_RUNAHEAD_JOB": job.metadata.name,
            "SRT_RUNAHEAD_ENGINE_NAME": engine.name,
            "SRT_RUNAHEAD_GATEWAY_URL": site.url(engine.name),
            "SRT_RUNAHEAD_TOKEN_FILE": str(site.layout.token),
            "SRT_RUNAHEAD_BROKER_URL": site.broker_url,
            "SRT_RUNAHEAD_COORDINATION_URL": site.server_url,
            "SRT_RUNAHEAD_CONCURRENCY": str(_concurrency(job)),
        },
        grace_seconds=6.0,
    )


def _concurrency(job: SRTJob) -> int:
    """No more chunks than slots: what is beyond them waits in the queue."""
    slots = job.spec.rollout.pool.engine.max_num_seqs - job.spec.run_ahead.reserve_slots
    return min(slots, MAX_CONCURRENCY)


def engine_of(job: SRTJob, member: Member) -> Member:
    """The engine that a worker stands beside."""
    engines = [m for m in members(job.spec) if m.component is Component.ROLLOUT]
    return engines[member.index]
