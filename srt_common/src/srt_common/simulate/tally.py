"""What is counted and timed while an arm replays, and what becomes of it.

Definitions (design 4 and 8):

* request-step: one request taking part in one decoding pass.
* tokens per step: tokens given by decoding passes / request-steps. The first token of a turn comes
  from prefill and is not counted, except in exact-p replays.
* acceptance rate: accepted / drafted tokens; drafted: what went into a decoding pass.
* coverage: request-steps that verified a draft / request-steps.
* times: process CPU time of the drafter's calls. Proposing is timed per engine step and divided by
  its rows; percentiles are over rows.
* bytes per token: growth of the arm's process while it ran / generated tokens its trees hold.
* num tokens: generated tokens of the source, whatever became of them.
"""

from __future__ import annotations

import ctypes
import resource
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypedDict

import numpy as np

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = resource.getpagesize()


class Figures(TypedDict):
    """What `srt simulate --json` says of an arm."""

    tokens_per_step: float
    acceptance_rate: float
    drafted_per_step: float
    propose_us_p50: float
    propose_us_p99: float
    insert_us_per_token: float
    bytes_per_token: float
    num_tokens: int


@dataclass(slots=True)
class Timing:
    """CPU time of one drafter's calls, in nanoseconds."""

    propose_ns: array[int] = field(default_factory=lambda: array("q"))
    """One entry an engine step."""
    propose_rows: array[int] = field(default_factory=lambda: array("q"))
    insert_ns: int = 0
    num_inserted: int = 0
    open_ns: int = 0
    """Starting requests and turns."""
    num_opened: int = 0

    def proposed(self, nanoseconds: int, num_rows: int) -> None:
        """Note one engine step."""
        self.propose_ns.append(nanoseconds)
        self.propose_rows.append(num_rows)

    def inserted(self, nanoseconds: int, num_tokens: int) -> None:
        """Note a call, or calls, that only took tokens in."""
        self.insert_ns += nanoseconds
        self.num_inserted += num_tokens

    def opened(self, nanoseconds: int, num_opened: int = 1) -> None:
        """Note the start of a turn, or what its end cost."""
        self.open_ns += nanoseconds
        self.num_opened += num_opened


@dataclass(slots=True)
class Tally:
    """Counts over all replicas of an arm."""

    num_tokens: int = 0
    """Given by decoding passes."""
    num_request_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_drafted_steps: int = 0
    """Request-steps that verified a draft."""
    num_passes: int = 0
    """Decoding passes of the replicas."""
    seconds: float = 0.0
    """What all batches take by the cost model, prefill left out."""
    undrafted_seconds: float = 0.0
    """What they would take without drafts."""
    grown_bytes: int = 0
    by_draft_length: Counter[int] = field(default_factory=Counter)
    """Request-steps by drafted tokens verified."""
    by_accepted: Counter[int] = field(default_factory=Counter)
    """Request-steps by drafted tokens accepted."""

    def add(self, other: Tally) -> None:
        """Take another part of the same replay in."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))

    def verified(self, num_drafted: int, num_accepted: int, num_tokens: int) -> None:
        """Note one request-step."""
        self.num_request_steps += 1
        self.num_tokens += num_tokens
        self.num_draft_tokens += num_drafted
        self.num_accepted_tokens += num_accepted
        self.num_drafted_steps += num_drafted > 0
        self.by_draft_length[num_drafted] += 1
        self.by_accepted[num_accepted] += 1

    @property
    def drafted_per_step(self) -> float:
        """Drafted tokens a request-step."""
        return self.num_draft_tokens / max(1, self.num_request_steps)

    @property
    def tokens_per_step(self) -> float:
        """Tokens a request-step; 0 before the first."""
        return self.num_tokens / max(1, self.num_request_steps)

    @property
    def coverage(self) -> float:
        """Part of the request-steps that verified a draft."""
        return self.num_drafted_steps / max(1, self.num_request_steps)


@dataclass(frozen=True, slots=True)
class Held:
    """What the drafters of an arm keep."""

    num_tokens: int
    num_bytes: int
    """By their own count; 0 when they have none."""

    def plus(self, other: Held) -> Held:
        """Both together."""
        return Held(self.num_tokens + other.num_tokens, self.num_bytes + other.num_bytes)


@dataclass(slots=True)
class Account:
    """All that is known of an arm, over its episodes and replicas."""

    tally: Tally = field(default_factory=Tally)
    timings: list[Timing] = field(default_factory=list)
    held: Held = field(default_factory=lambda: Held(0, 0))

    def add(self, other: Account) -> None:
        """Take another episode in."""
        self.tally.add(other.tally)
        self.timings += other.timings
        self.held = self.held.plus(other.held)

    @property
    def propose_us_per_draft_token(self) -> float:
        """All time spent on proposing / drafted tokens that were verified."""
        total = sum(sum(timing.propose_ns) for timing in self.timings)
        return total / 1e3 / max(1, self.tally.num_draft_tokens)

    @property
    def open_us(self) -> float:
        """Mean time that starting (and ending) a request or turn takes."""
        total = sum(timing.open_ns for timing in self.timings)
        return total / 1e3 / max(1, sum(timing.num_opened for timing in self.timings))


def figures(account: Account, num_generated: int) -> Figures:
    """The figures of an arm, as they are written to JSON."""
    tally, timings, held = account.tally, account.timings, account.held
    per_row = propose_us_per_row(timings)
    num_inserted = sum(timing.num_inserted for timing in timings)
    insert_ns = sum(timing.insert_ns for timing in timings)
    return Figures(
        tokens_per_step=tally.tokens_per_step,
        acceptance_rate=tally.num_accepted_tokens / max(1, tally.num_draft_tokens),
        drafted_per_step=tally.drafted_per_step,
        propose_us_p50=float(np.quantile(per_row, 0.5)) if per_row.size else 0.0,
        propose_us_p99=float(np.quantile(per_row, 0.99)) if per_row.size else 0.0,
        insert_us_per_token=insert_ns / 1e3 / max(1, num_inserted),
        bytes_per_token=tally.grown_bytes / held.num_tokens if held.num_tokens else 0.0,
        num_tokens=num_generated,
    )


def propose_us_per_row(timings: list[Timing]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Microseconds a row [request-steps], each row with the mean of its engine step."""
    ns = np.concatenate([np.asarray(it.propose_ns, np.float64) for it in timings])
    rows = np.concatenate([np.asarray(it.propose_rows, np.int64) for it in timings])
    return np.repeat(ns / np.maximum(rows, 1) / 1e3, rows)


def resident_bytes() -> int:
    """Memory of this process in RAM, code and free heap left out; 0 where the system does not
    say.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        _, resident, shared, *_ = _STATM.read_text().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def cpu_ns() -> int:
    """Process CPU time."""
    return time.process_time_ns()
