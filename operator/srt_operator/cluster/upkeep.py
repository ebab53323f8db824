"""Keeps what the operator made as it made it, whoever changes or deletes it.

* Server-side apply notes which fields are ours; who writes one takes it from us. So what is ours
  now, beside what was ours after the last apply, tells of every change by others and of no other.
* What is not watched is applied anew when `doubt` was called since, as every resync does.
* A replica that begins to lead applies everything once: it knows nothing of what was before.
* Each call of the API server takes long while many jobs come: what does not wait for one another is
  asked and applied at once.
* What carries the name of a part and is controlled by nobody or somebody else is left alone.
  Secrets cannot be looked at; their names hold the id of their owner.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from srt_operator.backends.kubernetes_api import KubernetesApi, KubernetesRefused
from srt_operator.background import at_once
from srt_operator.cluster.resolution import Refused
from srt_operator.cluster.sayings import Sayings
from srt_operator.cluster.store import WATCHED, Key, Store, controller_uid, key_of
from srt_operator.constants import API_VERSION, ConditionType, Kind, Reason
from srt_operator.manifests.kubernetes.objects import MANAGER, SPEC_HASH, Manifest

PUT_BACK: Final = "PutBack"
"""Reason of the event."""
NOT_TAKEN: Final = frozenset({400, 403, 422})
"""Refusals of an object as such: malformed, forbidden by a quota or a policy, invalid."""
HTTP_INVALID: Final = 422
_CONDITIONS: Final[Mapping[str, ConditionType]] = {
    Kind.TREE_CACHE: ConditionType.TREE_CACHE_READY,
    Kind.ROLLOUT_POOL: ConditionType.ROLLOUT_READY,
    "Job": ConditionType.TRAINER_READY,
}
_LOG: Final = logging.getLogger(__name__)


Wanted: TypeAlias = tuple[str, str | None, Mapping[str, str]]
"""Digest of an object, the uid of its owner, and a Secret's values: its digest, which whoever reads
metadata sees, leaves them out.
"""


@dataclass(frozen=True, slots=True)
class _Applied:
    """An object as this process last applied it."""

    wanted: Wanted
    """What was asked for, and whose it is."""
    ours: str
    """Digest of the fields that were ours afterwards."""


class Upkeep:
    """Of the one replica that leads."""

    def __init__(self, api: KubernetesApi, store: Store, sayings: Sayings) -> None:
        self._api = api
        self._store = store
        self._sayings = sayings
        self._applied: dict[Key, _Applied] = {}

    async def ensure(self, *manifests: Manifest) -> None:
        """Apply objects, each unless it is there as it was applied last and that is what is wanted.

        The last one, whose pods use the others, is applied when they are there; none is before all
        names are known to be free or ours.

        Raises:
            Refused: a name is taken, or the API server does not take an object.
        """
        due = [manifest for manifest in manifests if self._is_due(manifest)]
        await at_once(*(self._leave_others_alone(manifest) for manifest in due))
        await at_once(*(self._put(manifest) for manifest in due[:-1]))
        await at_once(*(self._put(manifest) for manifest in due[-1:]))

    def _is_due(self, manifest: Manifest) -> bool:
        key = key_of(manifest)
        last = self._last(manifest)
        return last is None or _has_changed(key, last, self._store.get(*key))

    def _last(self, manifest: Manifest) -> _Applied | None:
        """How it was applied last; None: otherwise than is wanted now, or never."""
        last = self._applied.get(key_of(manifest))
        return last if last is not None and last.wanted == _wanted(manifest) else None

    async def _put(self, manifest: Manifest) -> None:
        key = key_of(manifest)
        last, there = self._last(manifest), self._store.get(*key)
        made = await self._admitted(manifest, there)
        self._applied[key] = _Applied(_wanted(manifest), _ours(made))
        if key[0] in WATCHED:
            self._store.put(made)
            if last is not None:
                self._tell(manifest, "changed" if there else "deleted")

    async def _apply(self, manifest: Manifest, there: Manifest | None) -> Manifest:
        """Apply; where what others added to a list of ours makes the whole invalid, it goes."""
        try:
            return await self._api.apply(manifest)
        except KubernetesRefused as error:
            if error.status != HTTP_INVALID or there is None or "spec" not in manifest:
                raise
            await self._api.merge(*key_of(manifest), {"spec": manifest["spec"]})
            return await self._api.apply(manifest)

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object, with all that it owns."""
        self._applied.pop((kind, namespace, name), None)
        await self._api.delete(kind, namespace, name)

    async def delete_part(self, owner: Manifest, kind: str, name: str) -> None:
        """Delete a part of a resource, if it is there and the resource's own."""
        metadata = owner["metadata"]
        there = self._store.get(kind, metadata["namespace"], name)
        if there is not None and controller_uid(there) == metadata["uid"]:
            await self.delete(kind, metadata["namespace"], name)

    def doubt(self) -> None:
        """What is not watched may have changed; what is gone is not ours any more."""
        self._applied = {
            key: last for key, last in self._applied.items() if self._store.get(*key) is not None
        }

    async def _leave_others_alone(self, manifest: Manifest) -> None:
        kind, namespace, name = key_of(manifest)
        there = self._store.get(kind, namespace, name)
        if there is None and kind != "Secret":
            there = await self._api.get(kind, namespace, name)
        if there is not None and controller_uid(there) != controller_uid(manifest):
            message = (
                f"{kind} {name} is there and is not this resource's own: delete it, or use "
                "another name"
            )
            raise Refused(Reason.NAME_TAKEN, message, missing=_waiting_for(kind))

    async def _admitted(self, manifest: Manifest, there: Manifest | None) -> Manifest:
        try:
            return await self._apply(manifest, there)
        except KubernetesRefused as error:
            if error.status not in NOT_TAKEN:
                raise
            kind, _, name = key_of(manifest)
            message = f"{kind} {name}: {error.reason}"
            raise Refused(Reason.NOT_ADMITTED, message, missing=_waiting_for(kind)) from error

    def _tell(self, manifest: Manifest, what: str) -> None:
        kind, namespace, name = key_of(manifest)
        _LOG.warning("put back", extra={"resource": f"{kind}/{namespace}/{name}", "was": what})
        owner = manifest["metadata"]["ownerReferences"][0]
        resource = self._store.get(owner["kind"], namespace, owner["name"])
        if resource is not None and owner["apiVersion"] == API_VERSION:
            message = f"somebody {what} {kind} {name}: it is again as this resource asks for"
            self._sayings.event(resource, PUT_BACK, message, is_bad=True)


def _has_changed(key: Key, last: _Applied, there: Manifest | None) -> bool:
    """Whether somebody changed or deleted what was applied last; of what is not watched, nobody
    knows.
    """
    return key[0] in WATCHED and (there is None or _ours(there) != last.ours)


def _waiting_for(kind: str) -> ConditionType:
    """The condition of an object's owner that waits for it."""
    return _CONDITIONS.get(kind, ConditionType.READY)


def _wanted(manifest: Manifest) -> Wanted:
    digest = manifest["metadata"]["annotations"][SPEC_HASH]
    return digest, controller_uid(manifest), manifest.get("stringData", {})


def _ours(manifest: Manifest) -> str:
    """Digest of the fields that our last apply holds alone or with others."""
    fields = [
        entry.get("fieldsV1")
        for entry in manifest["metadata"].get("managedFields", ())
        if entry.get("manager") == MANAGER
        and entry.get("operation") == "Apply"
        and not entry.get("subresource")
    ]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
