"""Engine counters: totals survive restarts of engines, and silence is no error."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_common.clock import SystemClock
from srt_operator.engine_counters import COUNTED, CounterTotal, EngineCounters, counts_in
from srt_operator.run_lines import append_line, read_lines


def stats(**rows: Any) -> bytes:
    base = dict.fromkeys(COUNTED, 1) | {"accepted_by_source": [1, 2, 3]}
    return json.dumps({"engine": "rollout-0", "trees": {"rows": base | rows}}).encode()


def test_drafting_counters_are_picked_from_an_engines_statistics() -> None:
    counts = counts_in(stats(num_draft_tokens=9, num_remote_draft_tokens=4))
    assert counts is not None
    assert (counts["num_draft_tokens"], counts["num_remote_draft_tokens"]) == (9, 4)
    assert (counts["num_accepted_history"], counts["num_accepted_run_ahead"]) == (1, 3)


def test_an_engine_that_began_anew_keeps_what_it_had_counted() -> None:
    total = CounterTotal()
    for reading in (3, 8, 2, 6):
        total.add({"n": reading})
    assert total.total() == {"n": 14}


@given(st.lists(st.lists(st.integers(0, 20), min_size=1), min_size=1))
def test_the_total_is_the_sum_of_all_lives(lives: list[list[int]]) -> None:
    total = CounterTotal()
    expected, last = 0, 0
    for life in lives:
        grown = [sum(life[: n + 1]) for n in range(len(life))]
        if grown[0] >= last and last:  # a new life shows only where it counts less
            grown = [0, *grown]
        for reading in grown:
            total.add({"n": reading})
        expected, last = expected + grown[-1], grown[-1]
    assert total.total()["n"] == expected


async def test_engines_that_do_not_answer_leave_no_line(tmp_path: Path) -> None:
    counters = EngineCounters(
        {"rollout-0": "http://127.0.0.1:9"},
        token=lambda: "x",
        write=partial(append_line, tmp_path / "engines.jsonl"),
        bubbles=dict,
        clock=SystemClock(),
    )
    await counters.read()
    assert read_lines(tmp_path / "engines.jsonl") == []


@pytest.mark.parametrize("answer", [{}, {"trees": {}}, {"trees": {"rows": {"num_steps": "x"}}}, []])
def test_statistics_of_another_shape_count_nothing(answer: object) -> None:
    assert counts_in(json.dumps(answer).encode()) is None
