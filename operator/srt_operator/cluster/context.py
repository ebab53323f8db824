"""What all controllers of the operator share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from srt_common.clock import Clock
from srt_operator.backends.kubernetes_api import KubernetesApi
from srt_operator.cluster.companions import Companion
from srt_operator.cluster.queue import WorkQueue
from srt_operator.cluster.sayings import Sayings
from srt_operator.cluster.store import Key, Store
from srt_operator.manifests.kubernetes.cluster import Cluster
from srt_operator.manifests.kubernetes.objects import SPEC_HASH, Manifest


@dataclass(slots=True, kw_only=True)
class Context:
    """Of the one replica that leads."""

    api: KubernetesApi
    store: Store
    queue: WorkQueue[Key]
    sayings: Sayings
    cluster: Cluster
    clock: Clock
    companions: dict[Key, Companion] = field(default_factory=dict)
    """By job."""
    applied: dict[Key, str] = field(default_factory=dict)
    """Digests of what is not watched, as it was last applied by this process."""

    async def ensure(self, manifest: Manifest) -> None:
        """Apply an object, unless it already says this."""
        metadata = manifest["metadata"]
        key = (manifest["kind"], metadata["namespace"], metadata["name"])
        digest = f"{metadata['annotations'][SPEC_HASH]}:{metadata['ownerReferences'][0]['uid']}"
        there = self.store.get(*key)
        if there is not None:
            annotations = there["metadata"].get("annotations", {})
            if annotations.get(SPEC_HASH) == metadata["annotations"][SPEC_HASH]:
                return
        elif self.applied.get(key) == digest and manifest["kind"] not in WATCHED:
            return
        made = await self.api.apply(manifest)
        self.applied[key] = digest
        if manifest["kind"] in WATCHED:
            self.store.put(made)


WATCHED = ("SRTJob", "RolloutPool", "TreeCache", "StatefulSet", "Job", "Pod")
"""Kinds whose objects lie in the store."""


class Controller(Protocol):
    """Keeps resources of one kind as they should be."""

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """One look at one resource; seconds until the next is needed, if nothing changes."""
        ...
