"""The replica that leads: takes in what watches tell, and looks at what changed.

* Level-triggered: a look decides from the store, so a lost event costs a resync at most.
* A watch that had to list anew missed something, objects that went included: a resync follows.
* A namespace that may not be looked into stops no other; it is asked again every so often.
* A look that fails, whatever with, is tried again after a growing pause; the others go on: no
  resource of one user may stop the operator for all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from srt_common.cancellation import cancel_and_wait
from srt_common.errors import SRTError
from srt_operator.backends.kubernetes_api import (
    KubernetesConflict,
    KubernetesError,
    KubernetesRefused,
)
from srt_operator.cluster.caches import CacheController
from srt_operator.cluster.context import Context, Controller
from srt_operator.cluster.interest import interested
from srt_operator.cluster.jobs import JobController
from srt_operator.cluster.listing import Listing
from srt_operator.cluster.pools import PoolController
from srt_operator.cluster.store import Key
from srt_operator.constants import Kind
from srt_operator.manifests.kubernetes.objects import Manifest

RESYNC_SECONDS: Final = 300.0
SETTLE_SECONDS: Final = 1.0
"""From a watch's new listing to the resync: others list anew at the same time."""
RETRY_SECONDS: Final = 2.0
FORBIDDEN_SECONDS: Final = 30.0
"""Between questions whether a namespace that refused still does."""
STUCK_SECONDS: Final = 120.0
"""A look that takes longer does not come back."""
NUM_WORKERS: Final = 4
MAX_PAUSE_SECONDS: Final = 60.0
REFUSED: Final = "Refused"
"""Reason of the event."""
_LOG = logging.getLogger(__name__)


class Operator:
    """Looks after all resources."""

    def __init__(
        self,
        context: Context,
        *,
        listing: Listing,
        observe_look: Callable[[str, float], None],
    ) -> None:
        """``observe_look``: gets kind and seconds of each look."""
        self._context = context
        self._listing = listing
        self._observe_look = observe_look
        self._num_failures: dict[Key, int] = {}
        self._looking: dict[Key, float] = {}
        """When the looks that go on began."""
        self._why_unlisted = "resources are not listed yet"
        self._has_missed = asyncio.Event()
        self._controllers: Mapping[str, Controller] = {
            Kind.SRT_JOB: JobController(context),
            Kind.ROLLOUT_POOL: PoolController(context),
            Kind.TREE_CACHE: CacheController(context),
        }

    def hear(self, manifest: Manifest, is_gone: bool) -> None:
        """Something changed; if we wrote it ourselves, the store has it and nobody has looked."""
        if not self._listing.knows(manifest["metadata"]["namespace"]):
            self.hear_of_listing()  # it may be listed again
            return
        concerned = interested(manifest, self._context.store)
        if is_gone:
            self._context.store.drop(manifest)
        else:
            self._context.store.put(manifest)
        for key in concerned | interested(manifest, self._context.store):
            self._context.queue.add(key)

    def hear_of_listing(self) -> None:
        """A watch began anew."""
        self._has_missed.set()

    def fault(self) -> str | None:
        """Why nothing is looked after now; None: all is well."""
        if why := self._why_unlisted or self._listing.fault():
            return why
        now = self._context.clock.monotonic()
        for key, since in self._looking.items():
            if now - since >= STUCK_SECONDS:
                return f"a look at {'/'.join(key)} has not come back for {now - since:.0f} s"
        return None

    async def list_first(self) -> None:
        """Until everything has been listed once; before watches begin: one of a kind that is not
        defined would never.
        """
        while not await self._try_resync():  # noqa: ASYNC110 - the event is in the API server
            await asyncio.sleep(RETRY_SECONDS)

    async def run(self) -> None:
        """Look, and go on until cancelled; after `list_first`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resync_often())
            tasks.create_task(self._ask_forbidden_often())
            tasks.create_task(self._context.sayings.write_events())
            for _ in range(NUM_WORKERS):
                tasks.create_task(self._work())

    async def close(self) -> None:
        """End what goes on beside pods; bubbles expire by themselves."""
        await self._context.companions.end_all()

    async def resync(self) -> None:
        """List everything anew and look at every resource."""
        self._context.upkeep.doubt()
        self._look_at(await self._listing.everything())

    def _look_at(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._context.queue.add(key)

    async def _resync_often(self) -> None:
        pause = RESYNC_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._has_missed.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._has_missed.clear()
            pause = RESYNC_SECONDS if await self._try_resync() else RETRY_SECONDS

    async def _ask_forbidden_often(self) -> None:
        while True:
            await asyncio.sleep(FORBIDDEN_SECONDS)
            try:
                self._look_at(await self._listing.forbidden())
            except KubernetesError as error:
                _LOG.warning("no listing", extra={"reason": str(error)})

    async def _try_resync(self) -> bool:
        try:
            await self.resync()
        except KubernetesError as error:
            _LOG.warning("no resync", extra={"reason": str(error)})
            if self._why_unlisted:
                self._why_unlisted = f"resources cannot be listed: {error}"
            return False
        self._why_unlisted = ""
        return True

    async def _work(self) -> None:
        while True:
            key = await self._context.queue.take()
            started = self._looking[key] = self._context.clock.monotonic()
            try:
                after = await self._look(key)
            finally:
                del self._looking[key]
                self._context.queue.done(key)
            self._observe_look(key[0], self._context.clock.monotonic() - started)
            if after is not None:
                self._context.queue.add(key, after=max(after, 0.05))

    async def _look(self, key: Key) -> float | None:
        kind, namespace, name = key
        looking = asyncio.create_task(self._controllers[kind].reconcile(namespace, name))
        try:
            await asyncio.wait({looking})
        finally:
            await cancel_and_wait({looking})
        error = looking.exception()
        if isinstance(error, KubernetesConflict):
            return 0.2  # somebody else was first; what they wrote comes with the next event
        if isinstance(error, KubernetesRefused):
            if error.status == HTTPStatus.NOT_FOUND:
                return None  # what was looked at went in the meantime
            if key not in self._num_failures:
                self._tell(key, error)
        if error is not None:
            return self._failed(key, error)
        self._num_failures.pop(key, None)
        return looking.result()

    def _tell(self, key: Key, refused: KubernetesRefused) -> None:
        manifest = self._context.store.get(*key)
        if manifest is not None:
            message = f"the API server refuses what this resource asks for: {refused}"
            self._context.sayings.event(manifest, REFUSED, message, is_bad=True)

    def _failed(self, key: Key, error: BaseException) -> float:
        """Seconds until the next try."""
        failures = self._num_failures[key] = self._num_failures.get(key, 0) + 1
        extra = {"resource": "/".join(key), "reason": str(error), "failures": failures}
        trace = None if isinstance(error, SRTError) else error
        _LOG.warning("a look failed", extra=extra, exc_info=trace)
        return min(2.0 ** min(failures, 10) / 2, MAX_PAUSE_SECONDS)
