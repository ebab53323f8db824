"""Load as the rollout pods' own gateways report it: exact, and they know the lanes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx

from srt_common.clock import Clock
from srt_common.messages.rollouts import DECODE_LOAD, LOAD_PATH
from srt_operator.http_client import answer_of
from srt_operator.signals.base import LoadReading

TIMEOUT_SECONDS: Final = 1.0


class RolloutPods:
    """The gateways of a job. Belongs to one event loop."""

    def __init__(self, client: httpx.AsyncClient, engines: Mapping[str, str], clock: Clock) -> None:
        """``engines``: base URL by name."""
        self._client = client
        self._engines = engines
        self._clock = clock
        self._readings: dict[str, LoadReading] = {}

    async def read(self) -> Mapping[str, LoadReading]:
        """Ask all of them at once."""
        await asyncio.gather(*(self._ask(name) for name in self._engines))
        return self.last()

    def last(self) -> Mapping[str, LoadReading]:
        """What `read` answered last."""
        return dict(self._readings)

    async def _ask(self, name: str) -> None:
        asked_at = self._clock.monotonic()
        url = self._engines[name] + LOAD_PATH
        load = await answer_of(self._client, url, DECODE_LOAD.decode, timeout=TIMEOUT_SECONDS)
        if load is not None:
            self._readings[name] = LoadReading(load, asked_at)
