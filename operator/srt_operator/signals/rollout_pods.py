"""Load as the rollout pods' own gateways report it: exact, and they know the lanes.

* One that takes long to answer holds up nobody else: its answer counts at the next reading.
* One that is silent is asked less and less often (`silence`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx

from srt_common.cancellation import cancel_and_wait
from srt_common.clock import Clock
from srt_common.messages.rollouts import DECODE_LOAD, LOAD_PATH
from srt_operator.http_client import answer_of
from srt_operator.signals.base import LoadReading
from srt_operator.signals.silence import Silence

TIMEOUT_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 0.2
"""A reading waits no longer for those that it asked."""


class RolloutPods:
    """The gateways of a job. Belongs to one event loop."""

    def __init__(self, client: httpx.AsyncClient, engines: Mapping[str, str], clock: Clock) -> None:
        """``engines``: base URL by name."""
        self._client = client
        self._engines = engines
        self._clock = clock
        self._readings: dict[str, LoadReading] = {}
        self._silences = {name: Silence() for name in engines}
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def read(self) -> Mapping[str, LoadReading]:
        """Ask all that are due at once."""
        self._forget_asked()
        now = self._clock.monotonic()
        for name, silence in self._silences.items():
            if name not in self._asking and silence.is_over(now):
                self._asking[name] = asyncio.create_task(self._ask(name))
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=PATIENCE_SECONDS)
            self._forget_asked()
        return self.last()

    def last(self) -> Mapping[str, LoadReading]:
        """What `read` answered last."""
        return dict(self._readings)

    async def close(self) -> None:
        """Wait for no answer any more."""
        await cancel_and_wait(self._asking.values())

    def _forget_asked(self) -> None:
        for name, asked in list(self._asking.items()):
            if asked.done():
                del self._asking[name]
                asked.result()

    async def _ask(self, name: str) -> None:
        asked_at = self._clock.monotonic()
        url = self._engines[name] + LOAD_PATH
        load = await answer_of(self._client, url, DECODE_LOAD.decode, timeout=TIMEOUT_SECONDS)
        if load is not None:
            self._readings[name] = LoadReading(load, asked_at)
        self._silences[name].note(is_answered=load is not None, now=self._clock.monotonic())
