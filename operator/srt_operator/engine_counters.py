"""Totals of the engines' own counters over a run, restarts included, and what they do now.

* An engine that restarts counts from 0 again; what it had counted before is kept.
* Read every few seconds and once at the end; between a reading and a kill little is lost.
* ``srt top`` shows the ``now`` of the last line; summaries read the totals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import httpx
import msgspec

from srt_common.clock import Clock
from srt_common.messages.rollouts import DECODE_LOAD, LOAD_PATH, STATS_PATH
from srt_operator.engine_now import EngineNow, engine_now
from srt_operator.http_client import answer_of
from srt_operator.run_lines import Line

READ_SECONDS: Final = 2.0
COUNTED: Final = (
    "num_steps",
    "num_lookups",
    "num_hits",
    "num_draft_tokens",
    "num_accepted_tokens",
    "num_remote_draft_tokens",
)


class _Rows(msgspec.Struct):
    num_steps: int
    num_lookups: int
    num_hits: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_remote_draft_tokens: int
    accepted_by_source: tuple[int, int, int]


class _Trees(msgspec.Struct):
    rows: _Rows


class _Stats(msgspec.Struct):
    """The part of ``/srt/v1/stats`` that is counted here."""

    trees: _Trees


class CounterTotal:
    """Sum of one engine's counters over its restarts. Pure."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._now: dict[str, int] = {}

    def add(self, reading: Mapping[str, int]) -> None:
        """A later reading; a smaller number means that the engine began anew."""
        if any(reading[name] < value for name, value in self._now.items() if name in reading):
            self._before = self.total()
        self._now = dict(reading)

    def total(self) -> dict[str, int]:
        """Everything counted so far."""
        names = self._before.keys() | self._now.keys()
        return {name: self._before.get(name, 0) + self._now.get(name, 0) for name in sorted(names)}


class EngineCounters:
    """Reads load and counters of all engines and hands on what they come to. Belongs to one event
    loop.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        engines: Mapping[str, str],
        *,
        token: Callable[[], str],
        write: Callable[[Line], None],
        bubbles: Callable[[], Mapping[str, str]],
        clock: Clock,
    ) -> None:
        """``client``: closed by whoever gives it; ``engines``: base URL by name; ``bubbles``: types
        of the open ones by engine; ``write`` gets a line for each reading, ``token`` is asked for
        it.
        """
        self._client = client
        self._engines = engines
        self._token = token
        self._write = write
        self._bubbles = bubbles
        self._clock = clock
        self._session = clock.unix()
        self._totals = {name: CounterTotal() for name in engines}
        self._before: dict[str, tuple[float, dict[str, int]]] = {}
        self.now: dict[str, EngineNow] = {}
        """Of the engines that answered the last reading."""

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(READ_SECONDS)

    async def read(self) -> None:
        """Read every engine that answers, and write one line when any did."""
        authority = {"authorization": f"Bearer {self._token()}"}
        answers = await asyncio.gather(*(self._look(name, authority) for name in self._engines))
        self.now = {answer.load.engine: answer for answer in answers if answer is not None}
        if self.now:
            self._write(
                {
                    "session": self._session,
                    "at_unix": self._clock.unix(),
                    "engines": {name: total.total() for name, total in self._totals.items()},
                    "now": msgspec.to_builtins(self.now),
                }
            )

    async def _look(self, name: str, authority: Mapping[str, str]) -> EngineNow | None:
        """One engine; None: it does not answer."""
        client, url = self._client, self._engines[name]
        load = await answer_of(client, url + LOAD_PATH, DECODE_LOAD.decode, headers=authority)
        if load is None:
            return None
        counts = await answer_of(client, url + STATS_PATH, counts_in, headers=authority)
        if counts is not None:
            self._totals[name].add(counts)
        total, at = self._totals[name].total(), self._clock.monotonic()
        before_at, before = self._before.get(name, (at, total))
        self._before[name] = (at, total)
        grown = {key: value - before.get(key, 0) for key, value in total.items()}
        named = msgspec.structs.replace(load, engine=name)
        return engine_now(named, grown, at - before_at, self._bubbles().get(name, ""))


def counts_in(text: bytes) -> dict[str, int] | None:
    """The drafting counters in an engine's statistics; None where they are not."""
    try:
        rows = _DECODE_STATS.decode(text).trees.rows
    except msgspec.MsgspecError:
        return None
    counts = {name: int(getattr(rows, name)) for name in COUNTED}
    named = zip(("history", "online", "run_ahead"), rows.accepted_by_source, strict=True)
    return counts | {f"num_accepted_{source}": count for source, count in named}


_DECODE_STATS: Final = msgspec.json.Decoder(_Stats)
