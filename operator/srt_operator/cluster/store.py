"""What is there, as watches and listings tell it. No I/O.

* Holds whole objects by kind, namespace and name; finds them by their owner.
* A listing replaces everything of its kind and place: what watches missed is made good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from srt_operator.manifests.kubernetes.objects import Manifest

Key = tuple[str, str, str]
"""Kind, namespace, name."""


class Store:
    """Objects by kind, namespace and name."""

    def __init__(self) -> None:
        self._objects: dict[Key, Manifest] = {}

    def put(self, manifest: Manifest) -> bool:
        """Take in an object; False: nothing about it is new, or it is older than what is there."""
        key = key_of(manifest)
        before = self._objects.get(key)
        if before is not None and _version(before) >= _version(manifest):
            return False
        self._objects[key] = manifest
        return True

    def drop(self, manifest: Manifest) -> None:
        """An object is gone."""
        before = self._objects.get(key_of(manifest))
        if before is not None and before["metadata"]["uid"] == manifest["metadata"]["uid"]:
            del self._objects[key_of(manifest)]

    def replace(self, kind: str, namespace: str | None, found: Sequence[Manifest]) -> list[Key]:
        """All objects of a kind in a namespace, or in all; the keys of those that are gone."""
        present = {key_of(manifest) for manifest in found}
        gone = [
            key
            for key in self._objects
            if key[0] == kind and namespace in (None, key[1]) and key not in present
        ]
        for key in gone:
            del self._objects[key]
        for manifest in found:
            self.put(manifest)
        return gone

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object."""
        return self._objects.get((kind, namespace, name))

    def of_kind(self, kind: str) -> Iterator[Manifest]:
        """All objects of a kind."""
        return iter([m for key, m in self._objects.items() if key[0] == kind])

    def of_owner(self, kind: str, namespace: str, owner_kind: str, owner: str) -> list[Manifest]:
        """Objects of a kind that another object controls."""
        wanted = (owner_kind, owner)
        return [
            manifest
            for manifest in self.of_kind(kind)
            if manifest["metadata"]["namespace"] == namespace and wanted in owners(manifest)
        ]


def key_of(manifest: Manifest) -> Key:
    """Kind, namespace and name of an object."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata["namespace"], metadata["name"]


def owners(manifest: Manifest) -> set[tuple[str, str]]:
    """Kinds and names of its owners."""
    found: Iterable[Manifest] = manifest["metadata"].get("ownerReferences", ())
    return {(owner["kind"], owner["name"]) for owner in found}


def _version(manifest: Manifest) -> int:
    """Versions of one object grow; they are numbers on every API server since 1.35, and before."""
    return int(manifest["metadata"]["resourceVersion"])
