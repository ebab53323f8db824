"""What jobs and their engines do now, and the two tables that show it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from srt_operator.constants import SETTLED
from srt_operator.engine_now import EngineNow
from srt_operator.run_lines import Line
from srt_operator.status import SRTJobStatus

FRESH_SECONDS: Final = 15.0
"""An older reading is not of now, and said so."""
MAX_ROWS: Final = 64


class JobNow(msgspec.Struct, frozen=True, kw_only=True):
    """One job."""

    name: str
    phase: str
    step: int
    """Finished optimizer steps."""
    steps: int
    """Asked for."""
    engines: dict[str, EngineNow]
    """By name; those that answered the last reading."""
    note: str = ""
    """What keeps ``engines`` from being of now, for people."""


def job_now(name: str, status: SRTJobStatus, line: Line, *, now: float, note: str = "") -> JobNow:
    """One row.

    Args:
        name: of the job.
        status: what was last said of it.
        line: the last one of its engine counters; empty: none is to be had.
        now: seconds since the epoch.
        note: why there is no line.
    """
    engines: dict[str, EngineNow] = {}
    if line and (age := now - line["at_unix"]) > FRESH_SECONDS:
        note = f"its engines were last read {age:.0f} s ago"
    elif line:
        engines, note = msgspec.convert(line["now"], dict[str, EngineNow]), ""
    progress = status.progress
    return JobNow(
        name=name,
        phase=str(status.phase),
        step=progress.step,
        steps=progress.steps,
        engines=engines,
        note=note if status.phase not in SETTLED else "",
    )


def plain(jobs: Sequence[JobNow]) -> Any:
    """For ``-o json``."""
    return msgspec.to_builtins(list(jobs))


def tables(jobs: Sequence[JobNow]) -> RenderableType:
    """Jobs, then their engines, then what there is to say."""
    parts: list[RenderableType] = [_jobs(jobs)]
    if any(job.engines for job in jobs):
        parts += [Text(), _engines(jobs)]
    num_rows = sum(len(job.engines) for job in jobs)
    if num_rows > MAX_ROWS:
        parts.append(Text(f"and {num_rows - MAX_ROWS} engines more; -o json shows all"))
    parts += [Text(f"{job.name}: {job.note}") for job in jobs if job.note]
    return Group(*parts)


def _jobs(jobs: Sequence[JobNow]) -> Table:
    table = _table(("JOB", "PHASE"), ("STEP", "RUNNING", "WAITING", "RUN-AHEAD", "TOKENS/S"))
    for job in jobs:
        loads = [engine.load for engine in job.engines.values()]
        speeds = [engine.tokens_per_second for engine in job.engines.values()]
        table.add_row(
            job.name,
            job.phase,
            f"{job.step}/{job.steps}",
            *_counts(loads),
            _number(
                sum(filter(None, speeds)) if any(s is not None for s in speeds) else None, ".0f"
            ),
        )
    return table


def _counts(loads: Sequence[Any]) -> list[str]:
    if not loads:
        return ["-"] * 3
    names = ("num_running_policy", "num_waiting_policy", "num_running_run_ahead")
    return [str(sum(getattr(load, name) for load in loads)) for name in names]


def _engines(jobs: Sequence[JobNow]) -> Table:
    columns = ("POLICY", "RUNNING", "WAITING", "RUN-AHEAD", "SLOTS", "KV", "GPU")
    rates = ("TOKENS/S", "TOKENS/STEP", "HIT", "ACCEPTED")
    table = _table(("JOB", "ENGINE"), (*columns, *rates))
    table.add_column("BUBBLE", no_wrap=True)
    rows = [(job.name, name, engine) for job in jobs for name, engine in _in_order(job.engines)]
    for job_name, name, engine in rows[:MAX_ROWS]:
        load = engine.load
        table.add_row(
            job_name,
            name,
            str(load.policy_version),
            *_counts([load]),
            str(load.max_num_seqs),
            _number(load.kv_cache_usage, ".0%"),
            _number(load.gpu_utilization, ".0%"),
            _number(engine.tokens_per_second, ".0f"),
            _number(engine.tokens_per_step, ".2f"),
            _number(engine.cache_hit_fraction, ".0%"),
            _number(engine.acceptance_rate, ".0%"),
            engine.bubble or "-",
        )
    return table


def _in_order(engines: Mapping[str, EngineNow]) -> list[tuple[str, EngineNow]]:
    """By number: rollout-2 before rollout-10."""
    return sorted(engines.items(), key=lambda item: (len(item[0]), item[0]))


def _table(left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
