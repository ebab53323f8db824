"""GPU utilisation may veto a bubble or hold it up; silence and old samples never read as idle."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt_common.coordination import Phase
from srt_operator.resources import BubbleSpec
from srt_operator.runahead.bubbles import BubbleState, Detector, Signal, advance
from srt_operator.runahead.gpu_votes import Vote, mean_utilization, vote
from srt_operator.signals.base import GPUReading

LIMITS = BubbleSpec(
    openAfterSeconds=1.0, minRemainingSeconds=5.0, cooldownSeconds=2.0, learnSteps=1
)
LEARNT = Detector(first_step=0, durations={"train": (60.0,) * 4, "rollout": (60.0,) * 4})
TICK = 0.25
SCRAPE = 5.0
SHUT = (BubbleState.BLOCKED, BubbleState.BUSY)


@pytest.mark.parametrize(
    ("utilization", "age", "idle_for", "expected"),
    [
        (0.0, 1.0, 60.0, Vote.IDLE),
        (0.0, 1.0, None, Vote.IDLE),
        (0.0, 11.0, 60.0, Vote.ABSTAINS),
        (1.0, 11.0, 60.0, Vote.ABSTAINS),
        (1.0, 1.0, 60.0, Vote.BUSY),
        (1.0, 1.0, None, Vote.ABSTAINS),
        (1.0, 1.0, 2.9, Vote.AWAITED),
        (1.0, 1.0, 3.1, Vote.BUSY),
    ],
)
def test_a_vote_follows_utilization_age_and_the_engine_s_own_work(
    utilization: float, age: float, idle_for: float | None, expected: Vote
) -> None:
    reading = GPUReading(utilization, sampled_at=100.0 - age)
    idle_since = None if idle_for is None else 100.0 - idle_for
    assert vote(reading, now=100.0, idle_since=idle_since) is expected


def test_no_reading_is_no_vote() -> None:
    assert vote(None, now=100.0, idle_since=0.0) is Vote.ABSTAINS


def test_old_readings_are_not_shown() -> None:
    fresh = [GPUReading(0.5, 99.0), GPUReading(1.0, 95.0)]
    assert mean_utilization([*fresh, GPUReading(0.0, 80.0)], now=100.0) == 0.75
    assert mean_utilization([GPUReading(0.0, 80.0)], now=100.0) is None


def gpu(now: float, utilization: float, *, every: float = SCRAPE) -> dict[str, GPUReading]:
    """What a source knows that samples every so often."""
    return {"Prometheus": GPUReading(utilization, now - now % every)}


def follow(
    start: float, seconds: float, detector: Detector = LEARNT, **fields: Any
) -> list[Detector]:
    """Detectors of a training phase on an empty engine, tick by tick."""
    found = []
    for number in range(int(seconds / TICK)):
        now = start + number * TICK
        given = {name: value(now) if callable(value) else value for name, value in fields.items()}
        signal = Signal(now=now, phase="train", step=5, max_num_seqs=8, **given)
        detector = advance(detector, signal, LIMITS)
        found.append(detector)
    return found


def opened_after(found: list[Detector]) -> float | None:
    return next((n * TICK for n, one in enumerate(found) if one.state is BubbleState.OPEN), None)


def test_without_data_load_and_phases_decide_alone() -> None:
    alone = opened_after(follow(100.0, 20.0))
    assert alone is not None
    stale = {"Prometheus": GPUReading(1.0, 80.0)}
    assert opened_after(follow(100.0, 20.0, gpus=stale)) == alone


def test_a_gpu_that_others_use_vetoes_and_is_named() -> None:
    found = follow(100.0, 30.0, gpus=lambda now: gpu(now, 0.9))
    assert opened_after(found) is None
    assert found[-1].state is BubbleState.BLOCKED
    assert found[-1].reason == "others use the GPU, says Prometheus"


def test_one_veto_is_enough() -> None:
    both = follow(100.0, 30.0, gpus=lambda now: gpu(now, 0.9) | {"NVML": GPUReading(0.0, now)})
    assert opened_after(both) is None


def test_a_free_gpu_confirms_and_delays_nothing() -> None:
    found = follow(100.0, 20.0, gpus=lambda now: gpu(now, 0.0))
    assert opened_after(found) == opened_after(follow(100.0, 20.0))
    assert found[-1].votes == {"Prometheus": Vote.IDLE}


def test_a_sample_of_the_engine_s_own_last_work_is_waited_out() -> None:
    """Busy until the engine fell idle at 100 s; the scrapes at 105 s and later say so."""
    found = follow(100.0, 20.0, gpus=lambda now: gpu(now, 1.0 if now < 105.0 else 0.0))
    alone, waited = opened_after(follow(100.0, 20.0)), opened_after(found)
    assert alone is not None
    assert waited is not None
    assert alone < 5.0 <= waited <= 5.0 + TICK


def test_a_source_that_dies_holds_nothing_up_for_long() -> None:
    last = {"Prometheus": GPUReading(1.0, 100.0)}
    waited = opened_after(follow(100.0, 30.0, gpus=last))
    assert waited is not None
    assert 10.0 <= waited <= 10.5


def test_run_ahead_does_not_close_its_own_bubble() -> None:
    open_now = follow(100.0, 10.0)[-1]
    busy = follow(110.0, 30.0, open_now, num_running_run_ahead=6, gpus=lambda now: gpu(now, 1.0))
    assert {one.state for one in busy} == {BubbleState.OPEN}


def test_an_engine_that_is_silent_is_not_called_idle() -> None:
    """Else its own work, unseen, would read as somebody else's."""
    silent = follow(100.0, 20.0, load_age_seconds=4.0, gpus=lambda now: gpu(now, 1.0))
    assert {one.reason for one in silent} == {"no load from the engine"}
    back = follow(120.0, TICK, silent[-1], gpus=lambda now: gpu(now, 1.0))
    assert back[-1].votes == {"Prometheus": Vote.AWAITED}


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_a_source_never_opens_what_load_and_phases_would_not(seed: int) -> None:
    """Blocked or busy by load and phases is blocked or busy with any source beside them."""
    draw = random.Random(seed)
    with_gpu = without = LEARNT
    phases: list[Phase] = ["train", "rollout", "weight_sync"]
    for number in range(120):
        now = 100.0 + number * TICK
        signal = Signal(
            now=now,
            phase=draw.choice(phases) if draw.random() < 0.1 else "train",
            step=5,
            max_num_seqs=8,
            num_running_policy=draw.choice([0, 0, 0, 2, 8]),
            num_running_run_ahead=draw.choice([0, 0, 4]),
        )
        reading = GPUReading(draw.random(), now - draw.uniform(0.0, 15.0))
        gpus = {"NVML": reading} if draw.random() < 0.8 else {}
        without = advance(without, signal, LIMITS)
        with_gpu = advance(with_gpu, replace(signal, gpus=gpus), LIMITS)
        if without.state in SHUT:
            assert with_gpu.state in SHUT
