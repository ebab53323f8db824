"""GPU utilisation as DCGM's exporter told Prometheus, asked for by pod.

* Raw samples of the last seconds are asked for, with their times: an instant query would answer for
  five minutes after the exporter has died. No sample is no data.
* The exporter's pod labels are ``pod`` and ``namespace``, or ``exported_pod`` and
  ``exported_namespace`` where Prometheus does not honour them; both are asked for.
* Utilisation is the larger of both series: either is at times missing or stuck at 0.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import httpx
import msgspec

from srt_common.clock import Clock
from srt_operator.signals.base import GPUReading

QUERY_PATH: Final = "/api/v1/query"
POLL_SECONDS: Final = 1.0
TIMEOUT_SECONDS: Final = 5.0
WINDOW_SECONDS: Final = 15
"""How far back samples are asked for."""
SCALES: Final[Mapping[str, float]] = {
    "DCGM_FI_DEV_GPU_UTIL": 0.01,
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": 1.0,
}
"""By series, what makes its values a share."""
LABEL_PREFIXES: Final = ("", "exported_")
_LOG = logging.getLogger(__name__)


class _Series(msgspec.Struct, frozen=True):
    metric: dict[str, str]
    values: list[tuple[float, str]]
    """Unix seconds and number, oldest first; never empty."""


class _Data(msgspec.Struct, frozen=True):
    result: list[_Series]


class _Answer(msgspec.Struct, frozen=True):
    data: _Data


_DECODE: Final = msgspec.json.Decoder(_Answer)


class Prometheus:
    """The engines of one job, by their pods' names. Belongs to one event loop."""

    name = "Prometheus"

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        *,
        namespace: str,
        engines: Sequence[str],
        clock: Clock,
    ) -> None:
        """``url``: of Prometheus itself, without ``/api``."""
        self._client = client
        self._url = url.rstrip("/") + QUERY_PATH
        self._queries = [query(engines, namespace, prefix) for prefix in LABEL_PREFIXES]
        self._clock = clock
        self._readings: Mapping[str, GPUReading] = {}
        self._is_away = False

    async def read(self) -> Mapping[str, GPUReading]:
        """See `GPUSource`."""
        return self._readings

    async def run(self) -> None:
        """Ask again and again until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(POLL_SECONDS)

    async def ask(self) -> None:
        """Ask once. Without an answer the last readings stand, and grow old."""
        now, now_unix = self._clock.monotonic(), self._clock.unix()
        try:
            answers = await asyncio.gather(*map(self._answer, self._queries))
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            if not self._is_away:
                _LOG.warning("no GPU utilisation from Prometheus", extra={"reason": str(error)})
            self._is_away = True
            return
        self._is_away = False
        samples = [sample for found in answers for sample in _samples(found)]
        self._readings = {
            engine: GPUReading(utilization, now - max(0.0, now_unix - sampled_at_unix))
            for engine, utilization, sampled_at_unix in busiest(samples)
        }

    async def _answer(self, text: str) -> Sequence[_Series]:
        answer = await self._client.post(self._url, data={"query": text}, timeout=TIMEOUT_SECONDS)
        return _DECODE.decode(answer.raise_for_status().content).data.result


def query(engines: Sequence[str], namespace: str, prefix: str) -> str:
    """PromQL for the raw samples of the engines' GPUs, under one spelling of the pod labels."""
    series, pods = "|".join(SCALES), "|".join(engines)
    return (
        f'{{__name__=~"{series}",{prefix}namespace="{namespace}",{prefix}pod=~"{pods}"}}'
        f"[{WINDOW_SECONDS}s]"
    )


Sample = tuple[str, float, float]
"""Engine, utilisation, Unix seconds."""


def _samples(found: Sequence[_Series]) -> Iterator[Sample]:
    """The newest sample of each series; NaN is none."""
    for series in found:
        labels = series.metric
        engine = labels.get("exported_pod") or labels["pod"]
        sampled_at_unix, number = series.values[-1]
        utilization = SCALES[labels["__name__"]] * float(number)
        if not math.isnan(utilization):
            yield engine, utilization, sampled_at_unix


def busiest(samples: Sequence[Sample]) -> Iterator[Sample]:
    """One for each engine: its largest utilisation, at the time of its oldest sample."""
    for engine in dict.fromkeys(engine for engine, _, _ in samples):
        own = [sample for sample in samples if sample[0] == engine]
        yield engine, max(sample[1] for sample in own), min(sample[2] for sample in own)
