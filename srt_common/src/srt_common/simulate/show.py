"""What a replay found, for people: one column an arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from srt_common.simulate.arms import Options
from srt_common.simulate.forecast import Forecast
from srt_common.simulate.tally import Account, Figures
from srt_common.simulate.trace import Trace


class Outcome(NamedTuple):
    """All there is to say of an arm."""

    account: Account
    figures: Figures
    forecast: Forecast


_LINES: Final[Mapping[str, Callable[[Outcome], str]]] = {
    "tokens per step": lambda it: f"{it.figures['tokens_per_step']:.3f}",
    "acceptance rate": lambda it: f"{it.figures['acceptance_rate']:.3f}",
    "drafted per step": lambda it: f"{it.figures['drafted_per_step']:.2f}",
    "coverage": lambda it: f"{it.account.tally.coverage:.3f}",
    "propose, us a row, p50 / p99": lambda it: (
        f"{it.figures['propose_us_p50']:.1f} / {it.figures['propose_us_p99']:.1f}"
    ),
    "insert, us a token": lambda it: f"{it.figures['insert_us_per_token']:.2f}",
    "start a request, us": lambda it: f"{it.account.open_us:.1f}",
    "memory, bytes a token": lambda it: f"{it.figures['bytes_per_token']:.0f}",
}
_EXPECTED: Final[Mapping[str, Callable[[Outcome], str]]] = {
    "speed-up of these batches": lambda it: f"{it.forecast.speedup:.2f}x",
    "rows a step": lambda it: f"{it.forecast.mean_rows:.1f}",
    "best --max-draft-tokens": lambda it: str(it.forecast.best_max_draft_tokens or "do not draft"),
    "speed-up of a step there": lambda it: f"{it.forecast.best_speedup:.2f}x",
    "memory, MiB a million tokens": lambda it: f"{it.forecast.mib_per_million_tokens:.0f}",
}


def show(console: Console, trace: Trace, options: Options, outcomes: Mapping[str, Outcome]) -> None:
    """Print what was replayed, what came out, and what to expect of the machine described."""
    cost = options.cost
    machine = f"{cost.c0_seconds * 1e3:g} ms + n x {cost.c1_seconds * 1e3:g} ms"
    console.print(_title(trace, options), markup=False, highlight=False, soft_wrap=True)
    console.print(_table("replayed", _LINES, outcomes))
    console.print(_table(f"a step of n tokens takes {machine}", _EXPECTED, outcomes))


def _title(trace: Trace, options: Options) -> str:
    parts = [f"{trace.name}: {len(trace.rollouts)} rollouts, {trace.num_generated} tokens"]
    if options.num_replicas > 1:
        sharing = "sharing trees" if options.is_shared else "each with its own trees"
        parts.append(f"{options.num_replicas} replicas {sharing}")
    parts.append("sampled drafts, exact acceptance" if trace.rows else "point-mass drafts")
    return "; ".join(parts)


def _table(
    head: str, lines: Mapping[str, Callable[[Outcome], str]], outcomes: Mapping[str, Outcome]
) -> Table:
    table = Table(head)
    for name in outcomes:
        table.add_column(name, justify="right")
    for label, cell in lines.items():
        table.add_row(label, *map(cell, outcomes.values()))
    return table
