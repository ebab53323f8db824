"""The run-ahead worker beside an engine of a job."""

from __future__ import annotations

from typing import Final

from srt_operator.manifests.parts import pool_of
from srt_operator.manifests.process import LocalProcess, LocalSite, Site, shared
from srt_operator.pools import RolloutPoolSpec
from srt_operator.processes import Component, Member, members
from srt_operator.resources import SRTJob

MAX_CONCURRENCY: Final = 256
GRACE_SECONDS: Final = 6.0


def local(job: SRTJob, site: LocalSite, member: Member) -> LocalProcess:
    """One Celery worker."""
    return LocalProcess(
        name=member.name,
        command=(site.python, "-m", "srt_runahead"),
        environment=variables(pool_of(job), site, engine=engine_of(job, member).name),
        grace_seconds=GRACE_SECONDS,
    )


def variables(pool: RolloutPoolSpec, site: Site, *, engine: str) -> dict[str, str]:
    """Settings of the worker beside ``engine``."""
    return shared(site, trace_sample_ratio=pool.trace_sample_ratio) | {
        "SRT_RUNAHEAD_JOB": site.job_id,
        "SRT_RUNAHEAD_ENGINE_NAME": engine,
        "SRT_RUNAHEAD_GATEWAY_URL": site.url(engine),
        "SRT_RUNAHEAD_TOKEN_FILE": str(site.layout.token),
        "SRT_RUNAHEAD_BROKER_URL": site.broker_url,
        "SRT_RUNAHEAD_COORDINATION_URL": site.server_url,
        "SRT_RUNAHEAD_CONCURRENCY": str(_concurrency(pool)),
    }


def _concurrency(pool: RolloutPoolSpec) -> int:
    """No more chunks than slots: what is beyond them waits in the queue."""
    return min(pool.engine.max_num_seqs - pool.run_ahead.reserve_slots, MAX_CONCURRENCY)


def engine_of(job: SRTJob, member: Member) -> Member:
    """The engine that a worker stands beside."""
    engines = [m for m in members(job.spec) if m.component is Component.ROLLOUT]
    return engines[member.index]
