"""New weights into a running engine, in the one order that keeps every token's label true.

    find or fetch the files -> abort run-ahead -> pause -> init (once) -> start -> load
        -> finish (label) -> reset prefix cache -> tell the drafter -> resume

* One update at a time; one that is loaded already changes nothing.
* What can be refused is refused before the engine is touched.
* A failure before ``start`` leaves the old weights in use. A failure after it leaves weights that
  are neither old nor new: policy requests are aborted and the engine serves nothing until an update
  succeeds.
* The engine is resumed whatever happens; one that cannot be resumed serves nothing either until an
  update succeeds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from srt_common.errors import EngineError
from srt_common.messages.rollouts import WeightUpdate
from srt_rollout.engine_client import EngineClient
from srt_rollout.flights import Flights
from srt_rollout.weight_files import WeightFiles

_LOG = logging.getLogger(__name__)


class Weights:
    """The weights of one engine: which are in use, and how new ones get in."""

    def __init__(
        self,
        client: EngineClient,
        flights: Flights,
        *,
        files: WeightFiles,
        has_drafter: bool,
    ) -> None:
        self._client = client
        self._flights = flights
        self._files = files
        self._has_drafter = has_drafter
        self._lock = asyncio.Lock()
        self._is_initialized = False
        self._path: str | None = None
        self.policy_version = 0
        """Of the weights in use; 0: those the engine started with."""
        self.url = ""
        """Where the weights in use were fetched; empty: nowhere."""
        self.is_paused = False
        self.is_updating = False
        """What is admitted now would be sampled by weights that are on their way."""
        self.are_defined = True
        """False: an update failed half way, or left the engine paused; nothing may be sampled."""

    async def label_first(self) -> None:
        """Label the weights the engine started with, as later ones are."""
        await self._client.label_weights(str(self.policy_version))

    async def update(self, wanted: WeightUpdate) -> None:
        """Put other weights to use.

        Raises:
            EngineRefused: the path, URL or version is not allowed; nothing has changed.
            EngineUnavailable: the files could not be fetched, or the engine failed; `are_defined`
            says whether it still has weights.
        """
        async with self._lock:
            path = await self._files.folder_of(wanted, loaded=self._path)
            if (path, wanted.policy_version) == (self._path, self.policy_version):
                self.url = wanted.url
                return
            self.is_updating = True
            try:
                async with self._without_run_ahead(), self._paused():
                    await self._load(path, wanted.policy_version)
            finally:
                self.is_updating = False
            self.url = wanted.url
        _LOG.info("weights loaded", extra={"policy_version": wanted.policy_version})

    async def _load(self, path: str, policy_version: int) -> None:
        if not self._is_initialized:
            await self._client.init_weight_transfer(str(self._files.root))
            self._is_initialized = True
        await self._client.start_weight_update()
        self._path, self.url, self.are_defined = None, "", False
        try:
            await self._client.update_weights(path)
            await self._client.finish_weight_update(str(policy_version))
            await self._client.reset_prefix_cache()
            if self._has_drafter:
                await self._client.set_policy_version(policy_version)
        except EngineError:
            self._disown()
            raise
        self._path, self.policy_version, self.are_defined = path, policy_version, True

    @asynccontextmanager
    async def _without_run_ahead(self) -> AsyncIterator[None]:
        lanes = self._flights.lanes
        was_open, lanes.is_run_ahead_open = lanes.is_run_ahead_open, False
        try:
            await self._flights.abort_and_wait(lanes.evict_all())
            yield
        finally:
            lanes.is_run_ahead_open = was_open

    @asynccontextmanager
    async def _paused(self) -> AsyncIterator[None]:
        self.is_paused = True
        try:
            await self._client.pause()
            yield
        finally:
            await self._resume()

    async def _resume(self) -> None:
        try:
            await self._client.resume()
        except EngineError:
            self._disown()
            raise
        self.is_paused = False

    def _disown(self) -> None:
        """Serve nothing until an update succeeds; what is in flight would wait for that."""
        self._path, self.url, self.are_defined = None, "", False
        self._flights.abort(self._flights.lanes.policy_requests())

    def stop_fetching(self) -> None:
        """The pod ends: let no download hold it up."""
        self._files.stop()
