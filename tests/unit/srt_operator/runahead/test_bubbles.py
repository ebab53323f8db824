"""Bubbles open slowly, close at once and fail closed; recorded and random traces alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_operator.resources import BubbleSpec
from srt_operator.runahead.bubbles import (
    MAX_HISTORY,
    BubbleState,
    Detector,
    Signal,
    advance,
    remaining_seconds,
)

LIMITS = BubbleSpec(
    openAfterSeconds=1.0, minRemainingSeconds=5.0, cooldownSeconds=2.0, learnSteps=1
)
TICK = 0.25
LEARNT = Detector(first_step=0, durations={"train": (30.0,) * 4, "rollout": (30.0,) * 4})
"""A detector that has seen steps of half a minute."""


def signal(now: float, phase: str | None = "train", **fields: object) -> Signal:
    base = Signal(now=now, phase=None, step=5, max_num_seqs=10)
    return replace(base, phase=phase, **fields)  # type: ignore[arg-type]


def follow(detector: Detector, signals: Iterable[Signal], limits: BubbleSpec = LIMITS) -> Detector:
    for one in signals:
        detector = advance(detector, one, limits)
    return detector


def ticks(
    start: float, seconds: float, phase: str | None = "train", **fields: object
) -> list[Signal]:
    return [signal(start + n * TICK, phase, **fields) for n in range(int(seconds / TICK))]


def opened(phase: str = "train", **fields: object) -> Detector:
    detector = follow(LEARNT, ticks(100.0, 3.0, phase, **fields))
    assert detector.state is BubbleState.OPEN
    return detector


def test_an_idle_engine_opens_only_after_it_was_idle_long_enough() -> None:
    states = []
    detector = LEARNT
    for one in ticks(0.0, 2.0):
        detector = advance(detector, one, LIMITS)
        states.append(detector.state)
    assert states[:2] == [BubbleState.BUSY, BubbleState.ARMING]
    first_open = states.index(BubbleState.OPEN)
    assert first_open * TICK >= 1.0
    assert set(states[1:first_open]) == {BubbleState.ARMING}
    assert set(states[first_open:]) == {BubbleState.OPEN}


def test_a_few_rare_signals_are_not_enough() -> None:
    detector = follow(LEARNT, [signal(0.0), signal(0.1), signal(5.0)])
    assert detector.state is BubbleState.ARMING
    assert advance(detector, signal(5.1), LIMITS).state is BubbleState.OPEN


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"num_waiting_policy": 1}, BubbleState.BUSY),
        ({"num_running_policy": 9}, BubbleState.BUSY),
        ({"kv_cache_usage": 0.95}, BubbleState.BUSY),
        ({"is_unavailable": True}, BubbleState.BLOCKED),
        ({"load_age_seconds": 3.5}, BubbleState.BLOCKED),
        ({"load_age_seconds": math.inf}, BubbleState.BLOCKED),
        ({"phase_age_seconds": 11.0}, BubbleState.BLOCKED),
        ({"phase": "weight_sync"}, BubbleState.BLOCKED),
        ({"phase": "finished"}, BubbleState.BLOCKED),
        ({"phase": None}, BubbleState.BLOCKED),
        ({"phase": "rollout", "num_pending": 3}, BubbleState.BUSY),
        ({"phase": "rollout", "num_running_policy": 6}, BubbleState.BUSY),
    ],
)
def test_one_signal_closes(fields: dict[str, object], state: BubbleState) -> None:
    after = advance(opened(), replace(signal(103.25), **fields), LIMITS)  # type: ignore[arg-type]
    assert after.state is state
    assert after.closed_at == 103.25
    assert after.reason


def test_an_engine_rests_between_two_bubbles() -> None:
    detector = advance(opened(), signal(103.25, num_waiting_policy=1), LIMITS)
    detector = follow(detector, ticks(103.5, 1.75))
    assert detector.state is BubbleState.ARMING
    assert follow(detector, ticks(105.25, 0.5)).state is BubbleState.OPEN


def test_the_tail_of_a_rollout_phase_is_a_bubble_once_every_rollout_is_placed() -> None:
    few = {"num_running_policy": 2}
    assert follow(LEARNT, ticks(0, 3, "rollout", num_pending=1, **few)).state is BubbleState.BUSY
    assert follow(LEARNT, ticks(0, 3, "rollout", **few)).state is BubbleState.OPEN
    half = follow(LEARNT, ticks(0, 3, "rollout", num_running_policy=5))
    assert half.state is BubbleState.BUSY


def test_a_tail_stays_open_between_the_two_thresholds() -> None:
    detector = opened("rollout", num_running_policy=2)
    assert detector.window is not None
    assert detector.window.bubble_type == "long_tail"
    detector = advance(detector, signal(103.25, "rollout", num_running_policy=8), LIMITS)
    assert detector.state is BubbleState.OPEN
    detector = advance(detector, signal(103.5, "rollout", num_running_policy=9), LIMITS)
    assert detector.state is BubbleState.BUSY


def test_a_bubble_passes_from_the_tail_into_training_without_closing() -> None:
    detector = opened("rollout", num_running_policy=1)
    detector = follow(detector, [signal(103.25, "reward"), *ticks(103.5, 2.0)])
    assert detector.state is BubbleState.OPEN
    assert detector.window is not None
    assert detector.window.bubble_type == "train"
    assert detector.durations["rollout"][-1] == pytest.approx(3.25)


def test_nothing_opens_while_a_job_learns_how_long_its_phases_are() -> None:
    learning = replace(LEARNT, first_step=5)
    assert follow(learning, ticks(0, 10)).state is BubbleState.ARMING
    taught = [replace(one, step=6) for one in ticks(10, 1)]
    assert follow(follow(learning, ticks(0, 10)), taught).state is BubbleState.OPEN


def test_nothing_opens_that_would_soon_be_over() -> None:
    short = replace(LEARNT, durations={"train": (6.0,) * 4})
    assert follow(short, ticks(0, 6)).state is BubbleState.ARMING
    assert follow(replace(LEARNT, durations={}), ticks(0, 6)).state is BubbleState.ARMING


def test_a_bubble_closes_when_it_has_lasted_as_long_as_they_do() -> None:
    detector = follow(LEARNT, ticks(0, 29.75))
    assert detector.state is BubbleState.OPEN
    assert follow(detector, ticks(29.75, 0.5)).state is BubbleState.BUSY


def test_windows_are_timed_and_only_the_last_ones_count() -> None:
    detector = Detector()
    for step in range(MAX_HISTORY + 5):
        start = step * 20.0
        detector = follow(detector, ticks(start, 4.0))
        detector = follow(detector, ticks(start + 4.0, 1.0, "weight_sync"))
        detector = follow(detector, ticks(start + 5.0, 5.0, "rollout", num_pending=9))
    assert detector.durations["train"] == (4.0,) * MAX_HISTORY


def test_a_lost_phase_event_is_caught_by_load_alone() -> None:
    busy = ticks(103.25, 1.0, "train", num_running_policy=10, num_waiting_policy=4)
    assert follow(opened(), busy).state is BubbleState.BUSY


@pytest.mark.parametrize(
    ("durations", "elapsed", "left"),
    [
        ((), 0.0, 0.0),
        ((10.0,), 4.0, 6.0),
        ((10.0,), 12.0, 0.0),
        ((10.0, 20.0, 30.0, 40.0), 0.0, 10.0),
        ((10.0, 20.0, 30.0, 40.0, 50.0), 0.0, 20.0),
        ((10.0, 20.0, 30.0, 40.0), 15.0, 5.0),
    ],
)
def test_what_remains_is_the_lower_quartile_of_what_lasted_longer(
    durations: tuple[float, ...], elapsed: float, left: float
) -> None:
    assert remaining_seconds(durations, elapsed) == left


phases = st.sampled_from(
    ["rollout", "reward", "train", "weight_sync", "checkpoint", "eval", "finished", None]
)
signals = st.builds(
    lambda gap, phase, step, pending, running, waiting, kv, age, off: (
        gap,
        Signal(
            now=0.0,
            phase=phase,
            step=step,
            num_pending=pending,
            max_num_seqs=8,
            num_running_policy=running,
            num_waiting_policy=waiting,
            kv_cache_usage=kv,
            load_age_seconds=age,
            is_unavailable=off,
        ),
    ),
    st.floats(0.05, 4.0),
    phases,
    st.integers(0, 6),
    st.sampled_from([0, 0, 3]),
    st.integers(0, 8),
    st.sampled_from([0, 0, 1]),
    st.sampled_from([0.1, 0.95]),
    st.sampled_from([0.0, 0.0, 5.0]),
    st.booleans(),
)
EAGER = BubbleSpec(openAfterSeconds=0.2, minRemainingSeconds=0.0, cooldownSeconds=0.0, learnSteps=0)


@given(st.lists(signals, max_size=60))
def test_an_open_bubble_always_has_its_reasons(trace: list[tuple[float, Signal]]) -> None:
    detector, now = Detector(), 0.0
    for gap, one in trace:
        now += gap
        before = detector
        detector = advance(before, replace(one, now=now), EAGER)
        if detector.state is not BubbleState.OPEN:
            continue
        assert one.phase in {"rollout", "reward", "train", "checkpoint", "eval"}
        assert one.num_waiting_policy == 0
        assert not one.is_unavailable
        assert one.load_age_seconds < 3
        assert one.utilization < EAGER.close_above
        assert before.state in {BubbleState.ARMING, BubbleState.OPEN}


@given(st.lists(signals, max_size=60))
def test_transitions_are_counted_and_dated(trace: list[tuple[float, Signal]]) -> None:
    detector, now, count = Detector(), 0.0, 0
    for gap, one in trace:
        now += gap
        before, detector = detector, advance(detector, replace(one, now=now), EAGER)
        count += before.state is not detector.state
        assert detector.num_transitions == count
        if before.state is not detector.state:
            assert detector.since == now
        if before.state is BubbleState.OPEN and detector.state is not BubbleState.OPEN:
            assert detector.closed_at == now
