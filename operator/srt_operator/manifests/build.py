"""From a member of a job to the process it is on this machine. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from srt_operator.manifests import rollout, runahead, server, trainer, tree_cache
from srt_operator.manifests.process import LocalProcess, LocalSite
from srt_operator.processes import Component, Member
from srt_operator.resources import SRTJob

_BUILDERS: Final[Mapping[Component, Callable[[SRTJob, LocalSite, Member], LocalProcess]]] = {
    Component.SERVER: server.local,
    Component.TREE_CACHE: tree_cache.local,
    Component.ROLLOUT: rollout.local,
    Component.RUN_AHEAD: runahead.local,
    Component.TRAINER: trainer.local,
}


def local_process(job: SRTJob, site: LocalSite, member: Member) -> LocalProcess:
    """How to run ``member`` here."""
    return _BUILDERS[member.component](job, site, member)
