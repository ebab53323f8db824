"""Figures are computed from counts as defined, percentiles over rows."""

from __future__ import annotations

import pytest

from srt_common.simulate.budget import CostModel
from srt_common.simulate.forecast import forecast
from srt_common.simulate.tally import Account, Held, Tally, Timing, figures


def account() -> Account:
    tally = Tally(num_passes=2, seconds=4.0, undrafted_seconds=10.0, grown_bytes=5000)
    for num_drafted, num_accepted in ((4, 4), (4, 0), (0, 0), (2, 1)):
        tally.verified(num_drafted, num_accepted, num_accepted + 1)
    timing = Timing()
    timing.proposed(3_000, 3)  # 1 us a row
    timing.proposed(9_000, 1)
    timing.inserted(2_000, 4)
    timing.opened(6_000)
    return Account(tally, [timing], Held(100, 4000))


def test_figures_follow_their_definitions() -> None:
    assert figures(account(), 9) == {
        "tokens_per_step": 9 / 4,
        "acceptance_rate": 0.5,
        "drafted_per_step": 2.5,
        "propose_us_p50": 1.0,
        "propose_us_p99": pytest.approx(9.0, rel=0.03),
        "insert_us_per_token": 0.5,
        "bytes_per_token": 50.0,
        "num_tokens": 9,
    }
    assert account().open_us == 6.0
    assert account().propose_us_per_draft_token == 1.2


def test_an_arm_that_did_nothing_has_figures_too() -> None:
    assert set(figures(Account(timings=[Timing()]), 0).values()) == {0}


def test_episodes_add_up() -> None:
    total = Account()
    total.add(account())
    total.add(account())
    assert figures(total, 9)["tokens_per_step"] == 9 / 4
    assert (total.tally.num_request_steps, total.held) == (8, Held(200, 8000))
    assert total.tally.by_accepted == {4: 2, 0: 4, 1: 2}


def test_the_forecast_says_what_pays_on_the_machine_described() -> None:
    free = forecast(account(), CostModel(1.0, 0.0))
    assert (free.speedup, free.best_max_draft_tokens, free.best_speedup) == (2.5, 4, 9 / 4)
    assert free.mean_rows == 2.0
    assert free.mib_per_million_tokens == pytest.approx(4000 / 100 * 1e6 / 2**20)
    # 5 accepted and 10 drafted in 4 request-steps; two rows cost 1.2, with their drafts 1.7.
    costly = forecast(account(), CostModel(1.0, 0.1))
    assert costly.best_max_draft_tokens == 4
    assert costly.best_speedup == pytest.approx(9 / 4 * 1.2 / 1.7)
    dear = forecast(account(), CostModel(1e-6, 1.0))
    assert (dear.best_max_draft_tokens, dear.best_speedup) == (0, 1.0)
