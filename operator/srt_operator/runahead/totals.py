"""Running totals of run-ahead for ``bubbles.jsonl``: chunks by result, tokens, what they were for.

* Totals survive a restart of the server they are read from; lines of one session only grow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from srt_common.clock import Clock
from srt_common.coordination import Coordination
from srt_common.errors import CoordinationUnavailable
from srt_operator.engine_counters import CounterTotal
from srt_operator.run_lines import Line
from srt_operator.runahead.coverage import TreeCacheClient

WRITE_SECONDS: Final = 5.0
RAN: Final = ("completed", "aborted", "failed")
"""Results of chunks that reached an engine."""
RESULTS: Final = (*RAN, "expired", "duplicate")


class TotalsLog:
    """Writes a line when the totals have changed."""

    def __init__(
        self,
        write: Callable[[Line], None],
        *,
        coordination: Coordination,
        cache: TreeCacheClient,
        clock: Clock,
    ) -> None:
        self._write = write
        self._coordination = coordination
        self._cache = cache
        self._clock = clock
        self._session = clock.unix()
        self._written_at = clock.monotonic()
        self._chunks = CounterTotal()
        self._num_tokens_drafted_from = 0
        self._last: dict[str, int] = {}

    async def write_sometimes(self, *, num_sent: int) -> None:
        """Write when the last line is old."""
        if num_sent and self._clock.monotonic() - self._written_at >= WRITE_SECONDS:
            await self.write(num_sent=num_sent)

    async def write(self, *, num_sent: int) -> None:
        """Read, and add a line if anything is new; without the server, nothing."""
        self._written_at = self._clock.monotonic()
        try:
            outcomes = await self._coordination.outcomes()
        except CoordinationUnavailable:
            return
        counts = {f"num_{result}": outcomes.num_results.get(result, 0) for result in RESULTS}
        self._chunks.add(counts | {"num_tokens": outcomes.num_tokens})
        used = await self._cache.num_run_ahead_tokens_used()
        self._num_tokens_drafted_from = max(self._num_tokens_drafted_from, used or 0)
        totals = self._chunks.total()
        totals["num_chunks"] = sum(totals[f"num_{result}"] for result in RAN)
        totals["num_sent"] = num_sent
        totals["num_tokens_drafted_from"] = self._num_tokens_drafted_from
        if totals != self._last:
            self._last = totals
            line = {
                "kind": "runahead",
                "session": self._session,
                "totals": totals,
                "abort_seconds": outcomes.abort_seconds,
            }
            self._write(line)
