"""A replica of the tree cache of a run."""

from __future__ import annotations

from srt_operator.manifests.process import HttpReadiness, LocalProcess, Site, shared
from srt_operator.processes import Member
from srt_operator.resources import SRTJob


def local(job: SRTJob, site: Site, member: Member) -> LocalProcess:
    """One replica."""
    template = job.spec.tree_cache.cache
    return LocalProcess(
        name=member.name,
        command=(site.python, "-m", "srt_tree_cache"),
        environment=shared(job, site)
        | {
            "SRT_TREE_CACHE_REDIS_URL": site.server_url,
            "SRT_TREE_CACHE_CACHE_ID": job.metadata.name,
            "SRT_TREE_CACHE_NUM_SHARDS": str(template.shards),
            "SRT_TREE_CACHE_INSTANCE": member.name,
            "SRT_TREE_CACHE_HOST": "127.0.0.1",
            "SRT_TREE_CACHE_PORT": str(site.ports[member.name]),
            "SRT_TREE_CACHE_MEMORY_LIMIT_BYTES": str(template.retention.max_bytes),
            "SRT_TREE_CACHE_TOKEN_FILE": str(site.layout.token),
        },
        readiness=HttpReadiness(site.url(member.name) + "/readyz"),
        grace_seconds=6.0,
    )
