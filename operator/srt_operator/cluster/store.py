"""What is there, as watches and listings tell it. No I/O.

* Holds whole objects by kind, namespace and name; finds them by their owner.
* A listing replaces everything of its kind and place: what watches missed is made good.
* What a watch told of a later time than the listing's stays, so both may come in any order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from srt_operator.manifests.kubernetes.objects import Manifest

Key = tuple[str, str, str]
"""Kind, namespace, name."""

WATCHED: Final = (
    "SRTJob",
    "RolloutPool",
    "TreeCache",
    "StatefulSet",
    "Job",
    "Pod",
    "Service",
    "PodDisruptionBudget",
)
"""Kinds whose objects lie in the store; secrets are not read, so they do not."""


class Store:
    """Objects by kind, namespace and name."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[Key, Manifest]] = defaultdict(dict)
        self._gone: dict[Key, int] = {}
        """Versions at which objects went, since the last listing of their kind."""

    def put(self, manifest: Manifest) -> bool:
        """Take in an object; False: nothing about it is new, or it is older than what is there."""
        key = key_of(manifest)
        before = self._kinds[key[0]].get(key)
        newest = self._gone.get(key, 0) if before is None else _version(before)
        if newest >= _version(manifest):
            return False
        self._kinds[key[0]][key] = manifest
        return True

    def drop(self, manifest: Manifest) -> None:
        """An object is gone."""
        key = key_of(manifest)
        before = self._kinds[key[0]].get(key)
        if before is None or before["metadata"]["uid"] == manifest["metadata"]["uid"]:
            self._kinds[key[0]].pop(key, None)
            self._gone[key] = _version(manifest)

    def replace(
        self, kind: str, namespace: str | None, found: Sequence[Manifest], *, version: str
    ) -> list[Key]:
        """All objects of a kind in a namespace, or in all, as they were at ``version``; the keys
        of those that are gone.
        """

        def is_concerned(key: Key) -> bool:
            return key[0] == kind and namespace in (None, key[1])

        at, present = int(version), {key_of(manifest) for manifest in found}
        gone = [
            key
            for key, manifest in self._kinds[kind].items()
            if is_concerned(key) and key not in present and _version(manifest) <= at
        ]
        for key in gone:
            del self._kinds[kind][key]
        for manifest in found:
            self.put(manifest)
        self._gone = {k: v for k, v in self._gone.items() if v > at or not is_concerned(k)}
        return gone

    def forget(self, namespace: str | None) -> list[Key]:
        """Let go of all objects of a namespace, or of all, whether or not they are there still;
        their keys.
        """
        forgotten = [
            key for found in self._kinds.values() for key in found if namespace in (None, key[1])
        ]
        for key in forgotten:
            del self._kinds[key[0]][key]
        return forgotten

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object."""
        return self._kinds[kind].get((kind, namespace, name))

    def of_kind(self, kind: str) -> Iterator[Manifest]:
        """All objects of a kind."""
        return iter(list(self._kinds[kind].values()))

    def of_owner(self, kind: str, namespace: str, owner_kind: str, owner: str) -> list[Manifest]:
        """Objects of a kind that another object controls."""
        wanted = (owner_kind, owner)
        return [
            manifest
            for key, manifest in self._kinds[kind].items()
            if key[1] == namespace and wanted in owners(manifest)
        ]


def key_of(manifest: Manifest) -> Key:
    """Kind, namespace and name of an object."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata["namespace"], metadata["name"]


def owners(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Kinds and names of its owners."""
    found: Iterable[Manifest] = manifest["metadata"].get("ownerReferences", ())
    return ((owner["kind"], owner["name"]) for owner in found)


def controller_uid(manifest: Manifest) -> str | None:
    """Of the one owner that controls it."""
    found: Iterable[Manifest] = manifest["metadata"].get("ownerReferences", ())
    return next((owner["uid"] for owner in found if owner.get("controller")), None)


def _version(manifest: Manifest) -> int:
    """Versions of one object grow; they are numbers on every API server since 1.35, and before."""
    return int(manifest["metadata"]["resourceVersion"])
