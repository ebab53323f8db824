"""A replica of the tree cache of a job."""

from __future__ import annotations

from typing import Final

from srt_operator.caches import TreeCacheReplicas
from srt_operator.manifests.process import HttpReadiness, LocalProcess, LocalSite, Site, shared
from srt_operator.processes import Member
from srt_operator.resources import SRTJob

GRACE_SECONDS: Final = 6.0


def local(job: SRTJob, site: LocalSite, member: Member) -> LocalProcess:
    """One replica."""
    found = shared(site, trace_sample_ratio=job.spec.telemetry.trace_sample_ratio)
    return LocalProcess(
        name=member.name,
        command=(site.python, "-m", "srt_tree_cache"),
        environment=found | variables(job.spec.tree_cache.cache, site, name=member.name),
        readiness=HttpReadiness(site.url(member.name) + "/readyz"),
        grace_seconds=GRACE_SECONDS,
    )


def variables(cache: TreeCacheReplicas, site: Site, *, name: str) -> dict[str, str]:
    """Settings of the replica ``name``."""
    return {
        "SRT_TREE_CACHE_REDIS_URL": site.server_url,
        "SRT_TREE_CACHE_CACHE_ID": site.cache_id,
        "SRT_TREE_CACHE_NUM_SHARDS": str(cache.shards),
        "SRT_TREE_CACHE_INSTANCE": name,
        "SRT_TREE_CACHE_HOST": site.listen_host,
        "SRT_TREE_CACHE_PORT": str(site.endpoints[name].port),
        "SRT_TREE_CACHE_MEMORY_LIMIT_BYTES": str(cache.retention.max_bytes),
        "SRT_TREE_CACHE_ROLLOUTS_PER_PROMPT": str(cache.retention.rollouts_per_prompt),
        "SRT_TREE_CACHE_TOKEN_FILE": str(site.cache_token),
    }
