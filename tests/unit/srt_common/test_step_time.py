"""The fit of step time: what it finds, what it ignores, how it recovers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt_common.step_time import StepCost, StepSample, StepTime

UNTIMED = settings(deadline=None)
"""Speed is not what is tested here."""
TRUE = StepCost(base=2e-3, per_token=4e-5, drafting=5e-4, per_prompt_token=1e-5)


class Steps:
    """Samples of a load whose rows, drafts and prompts vary."""

    def __init__(self, seed: int, noise: float = 0.0) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = noise
        self._count = 0

    def sample(self, cost: StepCost, *, slower: float = 1.0) -> StepSample:
        self._count += 1
        drafting = 0.0 if self._count % 32 < 4 else 1.0
        num_tokens = 16 + int(drafting * self._rng.integers(0, 80))
        num_prompt_tokens = 256 if self._count % 16 == 7 else 0
        seconds = cost.seconds(num_tokens, num_prompt_tokens=num_prompt_tokens, drafting=drafting)
        seconds *= slower * max(0.3, self._rng.normal(1.0, self._noise))
        return StepSample(
            num_tokens=num_tokens,
            num_prompt_tokens=num_prompt_tokens,
            drafting=drafting,
            seconds=seconds,
        )


def fitted(step_time: StepTime, steps: Steps, cost: StepCost, count: int) -> StepCost:
    for _ in range(count):
        step_time.observe(steps.sample(cost))
    return step_time.cost


def assert_close(found: StepCost, expected: StepCost, rel: float) -> None:
    assert found.per_token == pytest.approx(expected.per_token, rel=rel)
    assert found.per_prompt_token == pytest.approx(expected.per_prompt_token, rel=rel)
    assert found.base == pytest.approx(expected.base, rel=rel)
    assert found.base + found.drafting == pytest.approx(expected.base + expected.drafting, rel=rel)


@UNTIMED
@given(
    base=st.floats(-4, 4), per_token=st.floats(-4, 4), seed=st.integers(min_value=0, max_value=99)
)
def test_a_fit_that_starts_wrong_by_any_factor_finds_the_cost(
    base: float, per_token: float, seed: int
) -> None:
    wrong = StepCost(base=TRUE.base * 10**base, per_token=TRUE.per_token * 10**per_token)
    assert_close(fitted(StepTime(wrong), Steps(seed), TRUE, 200), TRUE, rel=0.02)


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
        base=3 * TRUE.base, per_token=4 * TRUE.per_token, drafting=1e-3, per_prompt_token=3e-5
    )
    assert_close(fitted(step_time, steps, slower, 300), slower, rel=0.1)


def test_a_kind_of_step_that_comes_late_is_learned() -> None:
    """It is far from the fit, and so are a pause's; but it comes again and again."""
    step_time, rng = StepTime(), np.random.default_rng(4)
    for number in range(600):
        num_tokens = int(rng.integers(16, 80))
        num_prompt_tokens = 1000 if number > 200 and number % 8 == 0 else 0
        step_time.observe(
            StepSample(
                num_tokens=num_tokens,
                num_prompt_tokens=num_prompt_tokens,
                drafting=1.0,
                seconds=TRUE.seconds(num_tokens, num_prompt_tokens=num_prompt_tokens, drafting=1.0),
            )
        )
    found = step_time.cost.per_prompt_token
    assert found == pytest.approx(TRUE.per_prompt_token, rel=0.1)


def test_the_first_step_sets_the_size_and_keeps_the_shape() -> None:
    step_time = StepTime(StepCost(base=1.0, per_token=0.01))
    step_time.observe(StepSample(num_tokens=100, num_prompt_tokens=0, drafting=0.0, seconds=0.004))
    assert step_time.cost.base == pytest.approx(0.002)
    assert step_time.cost.per_token == pytest.approx(0.00002)


def test_few_undrafted_steps_are_not_crowded_out() -> None:
    """Only they tell a dearer drafting from a slower engine."""
    step_time, rng = StepTime(), np.random.default_rng(3)
    fitted(step_time, Steps(3), TRUE, 64)
    dearer = replace(TRUE, drafting=4 * TRUE.drafting)
    for number in range(500):
        num_tokens = int(rng.integers(16, 96))
        cost = TRUE if number < 200 else dearer
        seconds = cost.seconds(num_tokens, num_prompt_tokens=0, drafting=1.0)
        step_time.observe(
            StepSample(num_tokens=num_tokens, num_prompt_tokens=0, drafting=1.0, seconds=seconds)
        )
    assert step_time.cost.drafting == pytest.approx(dearer.drafting, rel=0.1)
    assert step_time.cost.base == pytest.approx(dearer.base, rel=0.1)


@UNTIMED
@given(seconds=st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40))
def test_no_term_is_ever_negative_and_a_token_never_free(seconds: list[float]) -> None:
    step_time, rng = StepTime(), np.random.default_rng(0)
    for value in seconds:
        step_time.observe(
            StepSample(
                num_tokens=int(rng.integers(1, 500)),
                num_prompt_tokens=int(rng.integers(0, 3)),
                drafting=float(rng.integers(0, 3)) / 2,
                seconds=value,
            )
        )
        cost = step_time.cost
        assert min(cost.base, cost.drafting, cost.per_prompt_token) >= 0
        assert cost.per_token > 0
