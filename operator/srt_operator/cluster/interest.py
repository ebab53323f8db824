"""Who must look again when something changed. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from srt_operator.cluster.store import Key, Store, key_of
from srt_operator.constants import API_VERSION, Kind
from srt_operator.manifests.kubernetes.objects import (
    LABEL_CACHE,
    LABEL_JOB,
    LABEL_POOL,
    Manifest,
)

_LABELS: Final = {
    LABEL_JOB: Kind.SRT_JOB,
    LABEL_POOL: Kind.ROLLOUT_POOL,
    LABEL_CACHE: Kind.TREE_CACHE,
}


def interested(manifest: Manifest, store: Store) -> set[Key]:
    """Resources that an object concerns: itself, its owners, and whoever refers to them."""
    found = set(_direct(manifest))
    for key in list(found):
        found.update(_referring(key, store))
    return found


def _direct(manifest: Manifest) -> Iterator[Key]:
    kind, namespace, name = key_of(manifest)
    if kind in list(Kind):
        yield kind, namespace, name
    for owner in manifest["metadata"].get("ownerReferences", ()):
        if owner["apiVersion"] == API_VERSION:
            yield owner["kind"], namespace, owner["name"]
    labels = manifest["metadata"].get("labels", {})
    for label, of_kind in _LABELS.items():
        if label in labels:
            yield str(of_kind), namespace, labels[label]


def _referring(key: Key, store: Store) -> Iterator[Key]:
    """Jobs and pools that name the pool or cache ``key``."""
    kind, namespace, name = key
    if kind == Kind.SRT_JOB:  # its end may free a pool that another one waits for
        job = store.get(*key)
        reference = (job or {}).get("spec", {}).get("rollout", {}).get("poolRef")
        if reference is not None:
            yield from _jobs(store, namespace, "rollout", "poolRef", reference["name"])
    elif kind == Kind.ROLLOUT_POOL:
        yield from _jobs(store, namespace, "rollout", "poolRef", name)
    else:
        yield from _jobs(store, namespace, "treeCache", "cacheRef", name)
        for pool in store.of_kind(Kind.ROLLOUT_POOL):
            reference = pool["spec"].get("treeCacheRef", {}).get("name")
            if pool["metadata"]["namespace"] == namespace and reference == name:
                yield key_of(pool)


def _jobs(store: Store, namespace: str, part: str, field: str, name: str) -> Iterator[Key]:
    for job in store.of_kind(Kind.SRT_JOB):
        reference = job["spec"].get(part, {}).get(field, {}).get("name")
        if job["metadata"]["namespace"] == namespace and reference == name:
            yield key_of(job)
