"""What `srt top` makes of readings: rates over an interval, rows, notes where nothing is known."""

from __future__ import annotations

import json

import msgspec
import pytest
from rich.console import Console

from srt_common.messages.rollouts import EngineLoad
from srt_operator.constants import Phase
from srt_operator.engine_now import EngineNow, engine_now
from srt_operator.run_lines import Line
from srt_operator.status import Progress, SRTJobStatus
from srt_operator.top import MAX_ROWS, job_now, plain, tables

NOW = 1_000.0
RUNNING = SRTJobStatus(phase=Phase.RUNNING, progress=Progress(step=3, steps=45))
GROWN = {
    "num_steps": 100,
    "num_lookups": 80,
    "num_hits": 60,
    "num_draft_tokens": 500,
    "num_accepted_tokens": 400,
}


def load(engine: str) -> EngineLoad:
    return EngineLoad(
        engine=engine,
        policy_version=7,
        max_num_seqs=16,
        reserve_slots=2,
        num_running_policy=5,
        num_waiting_policy=3,
        num_running_run_ahead=2,
        kv_cache_usage=0.25,
    )


def line(*engines: EngineNow, at_unix: float = NOW) -> Line:
    now = {engine.load.engine: msgspec.to_builtins(engine) for engine in engines}
    written: Line = json.loads(json.dumps({"at_unix": at_unix, "now": now}))
    return written


def drawn(*lines: Line, note: str = "") -> str:
    jobs = [job_now(f"sums-{n}", RUNNING, one, now=NOW, note=note) for n, one in enumerate(lines)]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(tables(jobs))
    return capture.get()


def test_rates_are_of_the_time_between_two_readings() -> None:
    now = engine_now(load("rollout-0"), GROWN, 2.0, "straggler")
    assert now.tokens_per_second == pytest.approx(250)
    assert now.tokens_per_step == pytest.approx(5)
    assert now.cache_hit_fraction == pytest.approx(0.75)
    assert now.acceptance_rate == pytest.approx(0.8)


@pytest.mark.parametrize("grown", [{}, dict.fromkeys(GROWN, 0)])
def test_an_engine_that_did_nothing_has_no_rates(grown: dict[str, int]) -> None:
    now = engine_now(load("rollout-0"), grown, 2.0, "")
    assert (now.tokens_per_step, now.cache_hit_fraction, now.acceptance_rate) == (None, None, None)
    assert now.tokens_per_second == (0 if grown else None)


def test_a_job_and_its_engines_are_rows() -> None:
    busy = engine_now(load("rollout-10"), GROWN, 2.0, "straggler")
    stock = engine_now(load("rollout-2"), {}, 2.0, "")
    rows = [" ".join(row.split()) for row in drawn(line(busy, stock)).splitlines() if row.strip()]
    assert rows[1] == "sums-0 Running 3/45 10 6 4 250"
    assert rows[3] == "sums-0 rollout-2 7 5 3 2 16 25% - - - - - -"
    assert rows[4] == "sums-0 rollout-10 7 5 3 2 16 25% - 250 5.00 75% 80% straggler"


def test_old_readings_are_not_shown_as_now() -> None:
    text = drawn(line(engine_now(load("rollout-0"), GROWN, 2.0, ""), at_unix=NOW - 60))
    assert "rollout-0" not in text
    assert "sums-0: its engines were last read 60 s ago" in text


def test_why_there_is_no_reading_is_said() -> None:
    assert "sums-0: it does not run" in drawn({}, note="it does not run")


def test_only_so_many_engines_are_drawn_and_all_are_told() -> None:
    many = line(*(engine_now(load(f"rollout-{n}"), GROWN, 1.0, "") for n in range(MAX_ROWS + 9)))
    assert "and 9 engines more" in drawn(many)
    [told] = plain([job_now("sums", RUNNING, many, now=NOW)])
    assert len(told["engines"]) == MAX_ROWS + 9
    assert told["engines"]["rollout-0"]["tokens_per_step"] == 5.0
