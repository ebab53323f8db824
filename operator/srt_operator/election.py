"""Who acts: one holder of a Lease at a time, with an epoch that only grows.

* A holder that cannot renew stops acting before another may take over, and one that was frozen and
  thaws finds `is_held` false before it writes anything.
* Expiry is judged on our own monotonic clock: from when a change of the lease was first seen.
* The decision is `decide`, pure; `Election` reads, writes and waits.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from srt_common.clock import Clock
from srt_operator.backends.kubernetes_api import (
    API_VERSIONS,
    KubernetesConflict,
    KubernetesError,
    KubernetesRefused,
)
from srt_operator.manifests.kubernetes.objects import Manifest

LEASE: Final = "srt-operator"
DURATION_SECONDS: Final = 15.0
RENEW_WITHIN_SECONDS: Final = 10.0
"""A holder whose last renewal is older, and who fails again, gives up."""
STOP_WITHIN_SECONDS: Final = 14.0
"""A holder whose last renewal is older gives up, whatever it waits for: the lease soon expires."""
RETRY_SECONDS: Final = 2.0
CALL_SECONDS: Final = 4.0
"""A call that takes longer is given up, so that there is time for another."""

_LOG = logging.getLogger(__name__)


class Leases(Protocol):
    """The part of the API that is needed."""

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """An object, or None."""
        ...

    async def create(self, manifest: Manifest) -> Manifest:
        """Raises KubernetesConflict: it is there."""
        ...

    async def replace(self, manifest: Manifest) -> Manifest:
        """Raises KubernetesConflict: it changed."""
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease as it was first seen in this state."""

    holder: str
    renewed: str
    at: float
    """Seconds, monotonic."""


def decide(
    lease: Manifest | None, seen: Seen | None, *, identity: str, now: float
) -> Literal["create", "take", "renew", "wait"]:
    """What to do about the lease."""
    if lease is None:
        return "create"
    holder = lease["spec"].get("holderIdentity") or ""
    if holder == identity:
        return "renew"
    if not holder:
        return "take"
    is_expired = seen is not None and now - seen.at >= DURATION_SECONDS
    return "take" if is_expired else "wait"


class Election:
    """One candidate."""

    def __init__(
        self, api: Leases, *, namespace: str, identity: str, clock: Clock, lease: str = LEASE
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._name = lease
        self._seen: Seen | None = None
        self._renewed_at: float | None = None
        self.epoch = 0
        """Changes of holder so far, while we lead."""
        self._refusal: str | None = None

    async def win(self) -> None:
        """Return once we hold the lease."""
        while not await self._try():  # noqa: ASYNC110 - the event is in the API server
            await asyncio.sleep(RETRY_SECONDS)
        _LOG.info("leading", extra={"epoch": self.epoch})

    @property
    def is_held(self) -> bool:
        """Whether the lease is ours and nobody may have taken it yet."""
        return self._seconds_left(DURATION_SECONDS) > 0

    def fault(self) -> str | None:
        """Why we can neither lead nor stand by; None: we can, or the API server is silent."""
        return self._refusal

    async def hold(self) -> None:
        """Renew until the lease is lost or could not be renewed in time; then return."""
        while True:
            try:
                async with asyncio.timeout(self._seconds_left(STOP_WITHIN_SECONDS)):
                    await asyncio.sleep(RETRY_SECONDS)
                    is_renewed = await self._try()
            except TimeoutError:
                return
            is_late = self._seconds_left(RENEW_WITHIN_SECONDS) <= 0
            if not is_renewed and (is_late or self._is_anothers()):
                return

    async def release(self) -> None:
        """Let the next one take over at once; trouble is left to expiry."""
        try:
            lease = await self._api.get("Lease", self._namespace, self._name)
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._api.replace(lease)
        except KubernetesError as error:
            _LOG.warning("the lease is left to expire", extra={"reason": str(error)})

    def _seconds_left(self, seconds: float) -> float:
        """Of ``seconds`` since the last renewal."""
        last = self._renewed_at
        return 0.0 if last is None else last + seconds - self._clock.monotonic()

    def _is_anothers(self) -> bool:
        return self._seen is not None and self._seen.holder not in ("", self._identity)

    async def _try(self) -> bool:
        """One look; whether we hold it afterwards."""
        asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                made = await self._ask(asked_at)
        except KubernetesConflict:
            return False
        except TimeoutError:
            _LOG.warning("the lease cannot be renewed in time")
            return False
        except KubernetesError as error:
            _LOG.warning("the lease cannot be renewed", extra={"reason": str(error)})
            if isinstance(error, KubernetesRefused):
                self._refusal = f"the lease is refused: {error}"
            return False
        self._refusal = None
        if made is None:
            return False
        self._renewed_at = asked_at
        self.epoch = int(made["spec"].get("leaseTransitions", 0))
        return True

    async def _ask(self, now: float) -> Manifest | None:
        """The lease as we hold it; None: somebody else does."""
        lease = await self._api.get("Lease", self._namespace, self._name)
        self._notice(lease)
        what = decide(lease, self._seen, identity=self._identity, now=now)
        if what == "wait":
            return None
        if lease is None:
            return await self._api.create(self._first())
        return await self._api.replace(self._renewed(lease, is_taken=what == "take"))

    def _notice(self, lease: Manifest | None) -> None:
        if lease is None:
            self._seen = None
            return
        holder, renewed = lease["spec"].get("holderIdentity"), lease["spec"].get("renewTime")
        if self._seen is None or (self._seen.holder, self._seen.renewed) != (holder, renewed):
            self._seen = Seen(holder or "", renewed or "", self._clock.monotonic())

    def _first(self) -> Manifest:
        now = _micro_time()
        spec = self._held(now) | {"acquireTime": now, "leaseTransitions": 1}
        metadata = {"name": self._name, "namespace": self._namespace}
        return {
            "apiVersion": API_VERSIONS["Lease"],
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }

    def _renewed(self, lease: Manifest, *, is_taken: bool) -> Manifest:
        now = _micro_time()
        spec = {**lease["spec"], **self._held(now)}
        if is_taken:
            transitions = int(lease["spec"].get("leaseTransitions", 0)) + 1
            spec |= {"acquireTime": now, "leaseTransitions": transitions}
        return {**lease, "spec": spec}

    def _held(self, now: str) -> dict[str, Any]:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION_SECONDS),
            "renewTime": now,
        }


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
