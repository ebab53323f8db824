"""Which shards this replica owns: takes free leases, renews its own, knows when one is gone.

* A lease counts until `SAFE_SECONDS` after the *start* of its last renewal, on this machine's
  clock: less than the server keeps it, so two replicas never both believe.
* A lease that was lost, or not renewed in time, stops compaction of its shard at the next look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from srt_common.clock import Clock
from srt_common.coordination import LEASE_TTL_SECONDS
from srt_common.errors import CoordinationUnavailable, LeaseLost

_LOG = logging.getLogger(__name__)

RENEW_SECONDS: Final = 3.0
SAFE_SECONDS: Final = LEASE_TTL_SECONDS - 1.0


class Lease(Protocol):
    """One shard's, see `srt_common.coordination.ShardLease`."""

    async def acquire(self) -> bool: ...
    async def renew(self) -> None: ...
    async def release(self) -> None: ...


class LeaseKeeper:
    """The leases of all shards of a cache, seen by one replica."""

    def __init__(
        self, leases: Sequence[Lease], *, clock: Clock, on_lost: Callable[[], None]
    ) -> None:
        self._leases = leases
        self._clock = clock
        self._on_lost = on_lost
        self._valid_until: dict[int, float] = {}
        self.num_lost = 0

    def owns(self, shard: int) -> bool:
        """True while nobody else can own the shard."""
        return self._clock.monotonic() < self._valid_until.get(shard, float("-inf"))

    def owned(self) -> list[int]:
        """Shards owned now."""
        return [shard for shard in sorted(self._valid_until) if self.owns(shard)]

    async def keep(self) -> None:
        """Take and renew until cancelled."""
        while True:
            await self.renew()
            await asyncio.sleep(RENEW_SECONDS)

    async def renew(self) -> None:
        """One round over all shards."""
        for shard in range(len(self._leases)):
            try:
                await self._renew_shard(shard)
            except CoordinationUnavailable:
                # What is held runs out by itself; asking for the other shards would wait as long.
                return

    async def release(self) -> None:
        """Give up everything that is held; a server that is away lets it expire."""
        held, self._valid_until = sorted(self._valid_until), {}
        for shard in held:
            try:
                await self._leases[shard].release()
            except CoordinationUnavailable:
                return

    async def _renew_shard(self, shard: int) -> None:
        asked_at = self._clock.monotonic()
        if shard not in self._valid_until:
            if await self._leases[shard].acquire():
                self._valid_until[shard] = asked_at + SAFE_SECONDS
            return
        try:
            await self._leases[shard].renew()
        except LeaseLost as error:
            del self._valid_until[shard]
            self.num_lost += 1
            self._on_lost()
            extra = {"shard": shard, "epoch": error.epoch}
            _LOG.warning("a shard is owned by somebody else now", extra=extra)
            return
        self._valid_until[shard] = asked_at + SAFE_SECONDS
