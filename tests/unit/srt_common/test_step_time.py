"""The fit of step time: what it finds, what it ignores, how it recovers."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt_common.step_time import StepCost, StepSample, StepTime

UNTIMED = settings(deadline=None)
"""Speed is not what is tested here."""
TRUE = StepCost(
    base=2e-3,
    per_token=4e-5,
    drafting=5e-4,
    drafting_per_row=1e-5,
    per_prompt_token=1e-5,
)


class Steps:
    """Samples of a load whose rows, drafts and prompts vary."""

    def __init__(self, seed: int, noise: float = 0.0) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = noise
        self._count = 0

    def sample(self, cost: StepCost, *, slower: float = 1.0) -> StepSample:
        self._count += 1
        drafting = 0.0 if self._count % 32 < 4 else 1.0
        sample = StepSample(
            num_rows=int(self._rng.integers(8, 64)),
            num_draft_tokens=int(drafting * self._rng.integers(0, 80)),
            num_prompt_tokens=256 if self._count % 16 == 7 else 0,
            drafting=drafting,
            seconds=0.0,
        )
        noise = max(0.3, self._rng.normal(1.0, self._noise))
        return timed(sample, cost, slower=slower * noise)


def timed(sample: StepSample, cost: StepCost, *, slower: float = 1.0) -> StepSample:
    """The sample with the seconds of an engine of this cost."""
    seconds = cost.seconds(
        sample.num_rows,
        sample.num_draft_tokens,
        num_prompt_tokens=sample.num_prompt_tokens,
        drafting=sample.drafting,
    )
    return replace(sample, seconds=slower * seconds)


def fitted(step_time: StepTime, steps: Steps, cost: StepCost, count: int) -> StepCost:
    for _ in range(count):
        step_time.observe(steps.sample(cost))
    return step_time.cost


def assert_close(found: StepCost, expected: StepCost, rel: float) -> None:
    """What a draft token costs, a prompt token, and steps of two sizes of either kind."""
    assert found.per_token == pytest.approx(expected.per_token, rel=rel)
    assert found.per_prompt_token == pytest.approx(expected.per_prompt_token, rel=rel)
    for num_rows in (10, 60):
        for drafting in (0, 1):
            seconds = [
                cost.seconds(num_rows, num_prompt_tokens=0, drafting=drafting)
                for cost in (found, expected)
            ]
            assert seconds[0] == pytest.approx(seconds[1], rel=rel)


@UNTIMED
@given(
    base=st.floats(-4, 4), per_token=st.floats(-4, 4), seed=st.integers(min_value=0, max_value=99)
)
def test_a_fit_that_starts_wrong_by_any_factor_finds_the_cost(
    base: float, per_token: float, seed: int
) -> None:
    wrong = StepCost(base=TRUE.base * 10**base, per_token=TRUE.per_token * 10**per_token)
    assert_close(fitted(StepTime(wrong), Steps(seed), TRUE, 400), TRUE, rel=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_noise_averages_out(seed: int) -> None:
    assert_close(fitted(StepTime(), Steps(seed, noise=0.1), TRUE, 400), TRUE, rel=0.25)


def test_pauses_and_collections_leave_the_fit_alone() -> None:
    step_time, steps = StepTime(), Steps(1, noise=0.02)
    for number in range(400):
        step_time.observe(steps.sample(TRUE, slower=50.0 if number % 10 == 9 else 1.0))
    assert_close(step_time.cost, TRUE, rel=0.15)


def test_a_pause_counts_as_a_plausible_time() -> None:
    step_time, steps = StepTime(), Steps(1, noise=0.02)
    fitted(step_time, steps, TRUE, 100)
    ordinary = steps.sample(TRUE)
    assert step_time.observe(ordinary) == pytest.approx(ordinary.seconds)
    assert step_time.observe(steps.sample(TRUE, slower=50.0)) < 0.02


def test_the_fit_follows_an_engine_that_got_slower() -> None:
    step_time, steps = StepTime(), Steps(2)
    fitted(step_time, steps, TRUE, 300)
    slower = StepCost(
        base=3 * TRUE.base,
        per_token=4 * TRUE.per_token,
        drafting=1e-3,
        drafting_per_row=TRUE.drafting_per_row,
        per_prompt_token=3e-5,
    )
    assert_close(fitted(step_time, steps, slower, 300), slower, rel=0.1)


def test_a_kind_of_step_that_comes_late_is_learned() -> None:
    """It is far from the fit, and so are a pause's; but it comes again and again."""
    step_time, rng = StepTime(), np.random.default_rng(4)
    for number in range(600):
        sample = StepSample(
            num_rows=16,
            num_draft_tokens=int(rng.integers(0, 64)),
            num_prompt_tokens=1000 if number > 200 and number % 8 == 0 else 0,
            drafting=1.0,
            seconds=0.0,
        )
        step_time.observe(timed(sample, TRUE))
    found = step_time.cost.per_prompt_token
    assert found == pytest.approx(TRUE.per_prompt_token, rel=0.1)


def test_the_first_step_sets_the_size_and_keeps_the_shape() -> None:
    step_time = StepTime(StepCost(base=1.0, per_token=0.01))
    step_time.observe(
        StepSample(
            num_rows=100, num_draft_tokens=0, num_prompt_tokens=0, drafting=0.0, seconds=0.004
        )
    )
    assert step_time.cost.base == pytest.approx(0.002)
    assert step_time.cost.per_token == pytest.approx(0.00002)


def test_few_undrafted_steps_are_not_crowded_out() -> None:
    """Only they tell a dearer drafting from a slower engine."""
    step_time, rng = StepTime(), np.random.default_rng(3)
    fitted(step_time, Steps(3), TRUE, 64)
    dearer = replace(TRUE, drafting=4 * TRUE.drafting)
    for number in range(800):
        is_probe = number % 128 < 8
        sample = StepSample(
            num_rows=16,
            num_draft_tokens=0 if is_probe else int(rng.integers(0, 80)),
            num_prompt_tokens=0,
            drafting=float(not is_probe),
            seconds=0.0,
        )
        step_time.observe(timed(sample, TRUE if number < 200 else dearer))
    for drafting in (0, 1):
        seconds = step_time.cost.seconds(16, num_prompt_tokens=0, drafting=drafting)
        expected = dearer.seconds(16, num_prompt_tokens=0, drafting=drafting)
        assert seconds == pytest.approx(expected, rel=0.1)


def test_a_machine_that_changes_its_speed_leaves_both_kinds_comparable() -> None:
    """Slow for longer than drafted steps are remembered, and probed only while it was fast."""
    step_time, steps = StepTime(), Steps(5, noise=0.02)
    fitted(step_time, steps, TRUE, 300)
    for _ in range(200):
        sample = steps.sample(TRUE, slower=1.4)
        if sample.drafting > 0:
            step_time.observe(sample)
    for num_rows in (10, 60):
        undrafted = step_time.cost.seconds(num_rows, num_prompt_tokens=0, drafting=0)
        expected = 1.4 * TRUE.seconds(num_rows, num_prompt_tokens=0, drafting=0)
        assert undrafted == pytest.approx(expected, rel=0.05)


def test_a_step_that_took_no_time_leaves_the_fit_usable() -> None:
    step_time, steps = StepTime(), Steps(6)
    fitted(step_time, steps, TRUE, 100)
    step_time.observe(steps.sample(TRUE, slower=0.0))
    assert_close(fitted(step_time, steps, TRUE, 100), TRUE, rel=0.1)


@UNTIMED
@given(seconds=st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40))
def test_no_term_is_ever_negative_and_a_token_never_free(seconds: list[float]) -> None:
    step_time, rng = StepTime(), np.random.default_rng(0)
    for value in seconds:
        step_time.observe(
            StepSample(
                num_rows=int(rng.integers(1, 250)),
                num_draft_tokens=int(rng.integers(0, 250)),
                num_prompt_tokens=int(rng.integers(0, 3)),
                drafting=float(rng.integers(0, 3)) / 2,
                seconds=value,
            )
        )
        cost = step_time.cost
        assert min(astuple(cost)) >= 0
        assert cost.per_token > 0
