"""Budgets: no drafts where none can pay, long ones where they are cheap, as many as wanted."""

from __future__ import annotations

import random

import numpy as np
import pytest

from srt_common.simulate.budget import (
    CostModel,
    EqualBudget,
    FixedBudget,
    GovernedBudget,
    Limits,
)


def test_a_fixed_budget_never_changes() -> None:
    budget = FixedBudget(16, 0.1)
    budget.observe(32, 500, 33)
    assert budget.limits(1) == budget.limits(64) == Limits(16, 0.1)


def drafted(budget: GovernedBudget, num_rows: int, num_steps: int) -> float:
    """Tokens drafted a request-step, each surviving with 0.8 of the chance of the one before."""
    survival = np.tile(np.float32(0.8) ** np.arange(1, 17, dtype=np.float32), num_rows)
    offsets = np.arange(0, 16 * num_rows + 1, 16, dtype=np.int32)
    total = 0
    for _ in range(num_steps):
        limits, num_drafts = budget.limits(num_rows), 0
        if limits.max_draft_tokens:
            assert limits.cut is not None
            num_drafts = int(limits.cut(survival, offsets).sum())
        num_accepted = int(0.6 * num_drafts)
        budget.observe(num_rows, num_drafts, num_rows + num_accepted)
        total += num_drafts
    return total / num_rows / num_steps


def test_where_tokens_cost_next_to_nothing_a_governed_draft_is_as_long_as_allowed() -> None:
    assert drafted(GovernedBudget(CostModel(3e-3, 1e-9), max_draft_tokens=16), 8, 120) > 14


def test_where_a_step_costs_nothing_but_its_tokens_next_to_nothing_is_drafted() -> None:
    assert drafted(GovernedBudget(CostModel(1e-9, 1e-3), max_draft_tokens=16), 32, 120) < 0.2


def test_more_rows_get_shorter_drafts() -> None:
    cost = CostModel(3e-3, 5e-5)
    found = [
        drafted(GovernedBudget(cost, max_draft_tokens=16), num_rows, 120)
        for num_rows in (1, 8, 64, 512)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 8 and found[3] < 2


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
