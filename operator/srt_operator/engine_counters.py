"""Totals of the engines' own counters over a run, restarts included.

* An engine that restarts counts from 0 again; what it had counted before is kept.
* Read every few seconds and once at the end; between a reading and a kill little is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import httpx
import msgspec

from srt_common.clock import Clock
from srt_common.messages.rollouts import STATS_PATH
from srt_operator.run_lines import Line

READ_SECONDS: Final = 2.0
TIMEOUT_SECONDS: Final = 5.0
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
    """Reads drafting counters of all engines and hands on their totals."""

    def __init__(
        self,
        engines: Mapping[str, str],
        *,
        token: Callable[[], str],
        write: Callable[[Line], None],
        clock: Clock,
    ) -> None:
        """``engines``: base URL by name; ``write`` gets a line for each reading."""
        self._engines = engines
        self._token = token
        self._write = write
        self._clock = clock
        self._session = clock.unix()
        self._totals = {name: CounterTotal() for name in engines}

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(READ_SECONDS)

    async def read(self) -> None:
        """Read every engine that answers, and write one line when any did."""
        headers = {"authorization": f"Bearer {self._token()}"}
        async with httpx.AsyncClient(
            headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False, verify=False
        ) as client:
            answers = await asyncio.gather(*(self._ask(client, name) for name in self._engines))
        if any(answers):
            totals = {name: total.total() for name, total in self._totals.items()}
            line = {"session": self._session, "at_unix": self._clock.unix(), "engines": totals}
            self._write(line)

    async def _ask(self, client: httpx.AsyncClient, name: str) -> bool:
        try:
            answer = await client.get(self._engines[name] + STATS_PATH)
            stats = msgspec.json.decode(answer.content)
        except (httpx.HTTPError, msgspec.MsgspecError):
            return False
        counts = counts_of(stats) if answer.status_code == httpx.codes.OK else None
        if counts is not None:
            self._totals[name].add(counts)
        return counts is not None


def counts_of(stats: object) -> dict[str, int] | None:
    """The drafting counters in an engine's statistics; None where they are not."""
    try:
        rows = msgspec.convert(stats, _Stats).trees.rows
    except msgspec.ValidationError:
        return None
    counts = {name: int(getattr(rows, name)) for name in COUNTED}
    named = zip(("history", "online", "run_ahead"), rows.accepted_by_source, strict=True)
    return counts | {f"num_accepted_{source}": count for source, count in named}
