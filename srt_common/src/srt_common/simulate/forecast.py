"""What a replay lets one expect of a machine whose decoding step takes c0 + c1 n. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from srt_common.simulate.budget import CostModel
from srt_common.simulate.tally import Account, Tally


@dataclass(frozen=True, slots=True)
class Forecast:
    """For one arm."""

    speedup: float
    """Time of all batches without drafts / with them, as replayed; prefill left out."""
    best_max_draft_tokens: int
    """The draft length limit that yields most tokens a second; 0: do not draft."""
    best_speedup: float
    """Of full steps at that limit."""
    mean_rows: float
    """Rows in a decoding pass."""
    mib_per_million_tokens: float
    """Memory of one replica's trees."""


def forecast(account: Account, cost: CostModel) -> Forecast:
    """From counts by draft length and by accepted tokens."""
    tally, held = account.tally, account.held
    limits = range(max(tally.by_draft_length, default=0) + 1)
    best = max(limits, key=lambda limit: (_speedup(tally, cost, limit), -limit))
    num_bytes = held.num_bytes or tally.grown_bytes
    return Forecast(
        speedup=tally.undrafted_seconds / tally.seconds if tally.seconds else 1.0,
        best_max_draft_tokens=best,
        best_speedup=_speedup(tally, cost, best),
        mean_rows=_mean_rows(tally),
        mib_per_million_tokens=num_bytes / held.num_tokens * 1e6 / 2**20 if held.num_tokens else 0,
    )


def _mean_rows(tally: Tally) -> float:
    return tally.num_request_steps / max(1, tally.num_passes)


def _speedup(tally: Tally, cost: CostModel, limit: int) -> float:
    """Of a step with the mean number of rows whose drafts are cut to ``limit`` tokens."""
    num_steps, rows = max(1, tally.num_request_steps), _mean_rows(tally)
    accepted = sum(min(n, limit) * count for n, count in tally.by_accepted.items()) / num_steps
    drafted = sum(min(n, limit) * count for n, count in tally.by_draft_length.items()) / num_steps
    return (1 + accepted) * cost.step_seconds(rows) / cost.step_seconds(rows * (1 + drafted))
