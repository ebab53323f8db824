"""Budgets: no drafts where none can pay, long ones where they are cheap, as many as wanted."""

from __future__ import annotations

import random

import pytest

from srt_common.simulate.budget import CostBudget, CostModel, EqualBudget, FixedBudget, Limits


def test_a_fixed_budget_never_changes() -> None:
    budget = FixedBudget(16, 0.1)
    budget.observe(32, 500, 33)
    assert budget.limits(1) == budget.limits(64) == Limits(16, 0.1)


def test_without_a_price_for_tokens_a_governed_draft_is_as_long_as_allowed() -> None:
    budget = CostBudget(CostModel(3e-3, 0.0), max_draft_tokens=16)
    assert budget.limits(32).max_draft_tokens == 16
    assert budget.limits(32).min_survival <= 1e-3


def test_where_a_step_costs_nothing_but_its_tokens_nothing_is_drafted() -> None:
    budget = CostBudget(CostModel(1e-9, 1e-3), max_draft_tokens=16)
    assert budget.limits(32).max_draft_tokens == 0


def test_more_rows_ask_for_more_certain_drafts() -> None:
    cost = CostModel(3e-3, 5e-5)
    limits = [CostBudget(cost, max_draft_tokens=16).limits(n).min_survival for n in (1, 8, 64, 512)]
    assert limits == sorted(limits)
    assert limits[0] < 0.02 and limits[2] > 0.5


def test_the_survival_limit_is_the_price_of_a_token_at_the_rate_of_late_steps() -> None:
    cost = CostModel(3e-3, 5e-5)
    budget = CostBudget(cost, max_draft_tokens=16)
    for _ in range(200):
        budget.observe(8, 40, 24)
    rate = 24 / (3e-3 + 5e-5 * 48)
    assert budget.limits(8).min_survival == pytest.approx(5e-5 * rate)


def test_an_equal_budget_drafts_as_much_as_wanted_over_all_steps() -> None:
    budget, rng, rows, drafted = (
        EqualBudget(lambda: 4.0, max_draft_tokens=16),
        random.Random(1),
        0,
        0,
    )
    for step in range(3000):
        num_rows = 32 if step % 10 else 3
        survival = budget.limits(num_rows).min_survival
        length = 2.0 * (1 - survival) / survival**0.35  # less certain drafts are longer
        num_drafted = round(num_rows * length * rng.uniform(0.5, 1.5))
        budget.observe(num_rows, num_drafted, num_rows)
        rows, drafted = rows + num_rows, drafted + num_drafted
    assert drafted / rows == pytest.approx(4.0, rel=0.01)
