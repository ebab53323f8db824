"""What all controllers of the operator share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from srt_common.clock import Clock
from srt_operator.backends.kubernetes_api import KubernetesApi
from srt_operator.cluster.companions import Companions
from srt_operator.cluster.queue import WorkQueue
from srt_operator.cluster.sayings import Sayings
from srt_operator.cluster.store import Key, Store, key_of
from srt_operator.cluster.upkeep import Upkeep
from srt_operator.manifests.kubernetes.cluster import Cluster
from srt_operator.manifests.kubernetes.objects import Manifest


@dataclass(slots=True, kw_only=True)
class Context:
    """Of the one replica that leads."""

    api: KubernetesApi
    store: Store
    upkeep: Upkeep
    queue: WorkQueue[Key]
    sayings: Sayings
    cluster: Cluster
    clock: Clock
    companions: Companions

    async def set_finalizers(self, manifest: Manifest, wanted: list[str]) -> None:
        """Of a resource as it was seen. Raises KubernetesConflict: it has changed since."""
        kind, namespace, name = key_of(manifest)
        version = manifest["metadata"]["resourceVersion"]
        change = {"finalizers": wanted, "resourceVersion": version}
        await self.api.merge(kind, namespace, name, {"metadata": change})


class Controller(Protocol):
    """Keeps resources of one kind as they should be."""

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """One look at one resource; seconds until the next is needed, if nothing changes."""
        ...
