"""The Redis-protocol server of a run: update log, coordination, task queue."""

from __future__ import annotations

from pathlib import Path

from srt_operator.manifests.process import LocalProcess, LocalSite, ServerReadiness
from srt_operator.processes import Member
from srt_operator.resources import SRTJob


def local(job: SRTJob, site: LocalSite, member: Member) -> LocalProcess:
    """A private server; it keeps nothing on disk."""
    del job
    return LocalProcess(
        name=member.name,
        command=site.server_command,
        readiness=ServerReadiness(socket=Path(site.server_url.removeprefix("unix://"))),
    )
