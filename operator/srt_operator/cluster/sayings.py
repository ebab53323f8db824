"""What the operator says of resources: statuses, written seldom, and events that people read.

* A status is written at once when a condition or the phase changed, else at most every 15 s.
* An event is made when a condition becomes what it was not, once. No look waits for it: events are
  written one after the other beside the looks, and those that still wait are lost with the leader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from srt_common.clock import Clock
from srt_operator.backends.kubernetes_api import (
    API_VERSIONS,
    KubernetesApi,
    KubernetesError,
    KubernetesRefused,
)
from srt_operator.conditions import rfc3339
from srt_operator.constants import ConditionType
from srt_operator.manifests.kubernetes.objects import MANAGER, Manifest
from srt_operator.resource_parts import Part
from srt_operator.status import Condition

WRITE_SECONDS: Final = 15.0
REPEAT_SECONDS: Final = 300.0
MAX_WAITING_EVENTS: Final = 1000
"""More are lost."""
_LOG = logging.getLogger(__name__)
_CONDITIONS: Final = TypeAdapter(tuple[Condition, ...])
_SILENT: Final = frozenset({ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED})
_BAD: Final = frozenset({ConditionType.FAILED, ConditionType.DEGRADED})


def conditions_of(manifest: Manifest) -> tuple[Condition, ...]:
    """What was said before; nothing, if it is not ours."""
    try:
        return _CONDITIONS.validate_python(
            manifest.get("status", {}).get("conditions", ()), strict=False
        )
    except ValidationError:
        return ()


class Sayings:
    """Writes statuses and events."""

    def __init__(self, api: KubernetesApi, clock: Clock, identity: str) -> None:
        self._api = api
        self._clock = clock
        self._identity = identity
        self._written: dict[str, tuple[float, Mapping[str, Any]]] = {}
        """Time and content of the last status, by uid."""
        self._told: dict[tuple[str, str, str], float] = {}
        """When an event was made last, by uid, reason and message."""
        self._waiting = asyncio.Queue[Manifest](MAX_WAITING_EVENTS)

    async def write_events(self) -> None:
        """Write what people are told, in order, until cancelled; one that is lost is no trouble."""
        while True:
            event = await self._waiting.get()
            try:
                await self._api.create(event)
            except KubernetesError as error:
                _LOG.warning("an event is lost", extra={"reason": str(error)})

    async def status(self, manifest: Manifest, status: Part) -> float | None:
        """Write a status if it is due; seconds until it is, if it is not."""
        uid, now = manifest["metadata"]["uid"], self._clock.monotonic()
        body = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        written_at, last = self._written.get(uid, (None, manifest.get("status", {})))
        if _same(body, last):
            return None
        is_urgent = any(body.get(name) != last.get(name) for name in ("phase", "conditions"))
        if not is_urgent and written_at is not None and now - written_at < WRITE_SECONDS:
            return WRITE_SECONDS - (now - written_at)
        before = {**manifest, "status": last}
        if await self._write(manifest, body):
            self._written[uid] = (now, body)
            self._tell(manifest, conditions_of(before), conditions_of({"status": body}))
        return None

    def forget(self, uid: str) -> None:
        """The resource is gone."""
        self._written.pop(uid, None)
        self._told = {saying: at for saying, at in self._told.items() if saying[0] != uid}

    def event(self, manifest: Manifest, reason: str, message: str, *, is_bad: bool) -> None:
        """Tell people something, the same seldom: `write_events` does."""
        metadata = manifest["metadata"]
        now, saying = self._clock.unix(), (metadata["uid"], reason, message)
        if now - self._told.get(saying, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return
        self._told[saying] = now
        event = {
            "apiVersion": API_VERSIONS["Event"],
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{int(now * 1e6):x}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": manifest["apiVersion"],
                "kind": manifest["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": "Warning" if is_bad else "Normal",
            "reason": reason,
            "message": message[:1024],
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "reportingInstance": self._identity,
            "firstTimestamp": rfc3339(now),
            "lastTimestamp": rfc3339(now),
            "count": 1,
        }
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            _LOG.warning("an event is lost", extra={"reason": "too many wait to be written"})

    async def _write(self, manifest: Manifest, body: Mapping[str, Any]) -> bool:
        """False: the resource is gone."""
        metadata = manifest["metadata"]
        named = {"name": metadata["name"], "namespace": metadata["namespace"]}
        document = {
            "apiVersion": manifest["apiVersion"],
            "kind": manifest["kind"],
            "metadata": {**named, "uid": metadata["uid"]},
            "status": dict(body),
        }
        try:
            await self._api.apply(document, subresource="status")
        except KubernetesRefused as error:
            if error.status in (404, 409):
                return False
            raise
        return True

    def _tell(
        self, manifest: Manifest, before: Sequence[Condition], after: Iterable[Condition]
    ) -> None:
        known = {condition.type: condition for condition in before}
        for condition in after:
            last = known.get(condition.type)
            has_turned = (last.status if last else "False") != condition.status
            if condition.type in _SILENT or not has_turned:
                continue
            turned = "" if condition.status == "True" else "Not"
            is_bad = (condition.status == "True") == (condition.type in _BAD)
            is_expected = condition.type is ConditionType.SUSPENDED
            text = (
                condition.message or f"{condition.type} is {condition.status}: {condition.reason}"
            )
            self.event(manifest, turned + condition.type, text, is_bad=is_bad and not is_expected)


def _same(body: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    return dict(body) == dict(last)
