"""Promise 8, never slower, on a simulated engine; promise 1 as far as cutting drafts goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from srt_common.governor import Governor, MeasuredStep, take
from srt_common.step_time import StepCost
from support.simulated_engine import Load, SimulatedEngine

FloatArray = NDArray[np.float32]
UNTIMED = settings(deadline=None)
"""Speed is not what is tested here."""

CHANCES = st.floats(0.03125, 1.0, width=32)
ROW = st.lists(CHANCES, max_size=16)
ROWS = st.lists(ROW, min_size=1, max_size=24)
PER_TOKEN = st.floats(0.001, 0.5)
"""c1 with c0 = 1."""


def survivals(rows: list[list[float]]) -> list[FloatArray]:
    return [np.cumprod(np.asarray(row, np.float32), dtype=np.float32) for row in rows]


def lengths_of(curves: list[FloatArray], per_token: float) -> list[int]:
    offsets = np.cumsum([0, *map(len, curves)]).astype(np.int32)
    joined = np.concatenate(curves).astype(np.float32)
    seconds = 1.0 + per_token * len(curves)
    lengths = take(joined, offsets, seconds=seconds, per_token=per_token).lengths
    return [int(length) for length in lengths]


def rate_of(curves: list[FloatArray], lengths: list[int], per_token: float) -> float:
    pairs = list(zip(curves, lengths, strict=True))
    tokens = len(pairs) + sum(float(curve[:n].sum()) for curve, n in pairs)
    return tokens / (1.0 + per_token * (len(pairs) + sum(lengths)))


@UNTIMED
@given(rows=ROWS, per_token=PER_TOKEN)
def test_what_is_taken_survives_likelier_than_what_is_not(
    rows: list[list[float]], per_token: float
) -> None:
    curves = survivals(rows)
    lengths = lengths_of(curves, per_token)
    pairs = list(zip(curves, lengths, strict=True))
    taken = [float(s) for curve, n in pairs for s in curve[:n]]
    left = [float(s) for curve, n in pairs for s in curve[n:]]
    assert min(taken, default=1.0) >= max(left, default=0.0)


@UNTIMED
@given(rows=ROWS, per_token=PER_TOKEN)
def test_a_row_keeps_a_beginning_of_its_own_draft(
    rows: list[list[float]], per_token: float
) -> None:
    curves = survivals(rows)
    lengths = lengths_of(curves, per_token)
    assert len(lengths) == len(curves)
    assert all(0 <= n <= len(curve) for n, curve in zip(lengths, curves, strict=True))


@UNTIMED
@given(rows=ROWS, per_token=PER_TOKEN)
def test_no_other_cut_by_survival_yields_more_per_second(
    rows: list[list[float]], per_token: float
) -> None:
    curves = survivals(rows)
    chosen = rate_of(curves, lengths_of(curves, per_token), per_token)
    for limit in {0.0, 2.0, *(float(s) for curve in curves for s in curve)}:
        other = [int((curve >= limit).sum()) for curve in curves]
        assert chosen >= rate_of(curves, other, per_token) * (1 - 1e-9)


@UNTIMED
@given(rows=ROWS, per_token=PER_TOKEN, data=st.data())
def test_a_position_is_decided_without_what_its_own_token_leads_to(
    rows: list[list[float]], per_token: float, data: st.DataObject
) -> None:
    """Everything after a position in its row may depend on its token: it must not matter."""
    row = data.draw(st.integers(0, len(rows) - 1))
    assume(rows[row])
    position = data.draw(st.integers(0, len(rows[row]) - 1))
    other = [*rows]
    other[row] = rows[row][: position + 1] + data.draw(ROW)
    is_kept = lengths_of(survivals(rows), per_token)[row] > position
    assert (lengths_of(survivals(other), per_token)[row] > position) == is_kept


@UNTIMED
@given(rows=ROWS, more=ROWS, per_token=PER_TOKEN)
def test_more_rows_never_lengthen_a_draft(
    rows: list[list[float]], more: list[list[float]], per_token: float
) -> None:
    alone = lengths_of(survivals(rows), per_token)
    together = lengths_of(survivals(rows + more), per_token)[: len(rows)]
    assert all(a >= b for a, b in zip(alone, together, strict=True))


@UNTIMED
@given(rows=ROWS, per_token=PER_TOKEN, factor=st.floats(1.0, 10.0))
def test_dearer_tokens_never_lengthen_a_draft(
    rows: list[list[float]], per_token: float, factor: float
) -> None:
    cheap = lengths_of(survivals(rows), per_token)
    dear = lengths_of(survivals(rows), per_token * factor)
    assert all(a >= b for a, b in zip(cheap, dear, strict=True))


def test_a_step_without_drafts_is_fine() -> None:
    taken = take(np.zeros(0, np.float32), np.zeros(5, np.int32), seconds=1.4, per_token=0.1)
    assert taken.lengths.tolist() == [0, 0, 0, 0]
    assert taken.threshold == pytest.approx(0.1 * 4 / 1.4)


LOADS = st.builds(
    Load,
    base=st.floats(1e-3, 5e-2),
    per_token=st.just(0.0),
    num_rows=st.integers(1, 256),
    acceptance=st.sampled_from([0.05, 0.3, 0.6, 0.9, 0.97]),
    noise=st.sampled_from([0.0, 0.05, 0.1]),
    drift=st.sampled_from([0.0, 1e-4]),
)


@pytest.mark.timeout(120)
@settings(deadline=None, max_examples=15)
@given(
    load=LOADS,
    share=st.floats(-3.5, -0.7),
    wrong_base=st.floats(-2, 2),
    wrong_per_token=st.floats(-3, 3),
    seed=st.integers(0, 999),
)
def test_never_slower_than_without_drafts_whatever_the_load_and_the_initial_fit(
    load: Load, share: float, wrong_base: float, wrong_per_token: float, seed: int
) -> None:
    load.per_token = load.base * 10**share
    initial = StepCost(
        base=load.base * 10**wrong_base, per_token=load.per_token * 10**wrong_per_token
    )
    outcome = SimulatedEngine(Governor(initial), seed=seed).run(load, 1500)
    assert outcome.speedup >= 0.98


BUSY_LOADS = st.builds(
    Load,
    base=st.floats(1e-3, 5e-2),
    per_token=st.just(0.0),
    num_rows=st.integers(1, 128),
    acceptance=st.sampled_from([0.05, 0.3, 0.6, 0.9]),
    lie=st.sampled_from([1.0, 0.5]),
    noise=st.sampled_from([0.0, 0.05]),
    overhead=st.sampled_from([0.0, 3e-4]),
    end_chance=st.sampled_from([2e-3, 0.02, 0.1]),
    abort_chance=st.sampled_from([0.0, 0.02, 0.2]),
    is_refilled=st.booleans(),
    prompt_tokens=st.sampled_from([0, 64, 1024]),
)


@pytest.mark.timeout(120)
@settings(deadline=None, max_examples=20)
@given(load=BUSY_LOADS, share=st.floats(-3.5, -0.7), seed=st.integers(0, 999))
def test_never_slower_while_rows_come_with_prompts_end_and_are_aborted(
    load: Load, share: float, seed: int
) -> None:
    load.per_token = load.base * 10**share
    load.per_prompt_token = load.per_token / 4
    outcome = SimulatedEngine(Governor(), seed=seed).run(load, 1500)
    assert outcome.num_prompt_tokens > 0 or load.prompt_tokens == 0
    assert outcome.speedup >= 0.98


@pytest.mark.parametrize("lie", [0.5, 0.2])
@pytest.mark.parametrize("num_rows", [1, 16, 128])
def test_never_slower_when_the_trees_promise_too_much(lie: float, num_rows: int) -> None:
    load = Load(base=3e-3, per_token=5e-5, num_rows=num_rows, acceptance=0.8, lie=lie, noise=0.05)
    assert SimulatedEngine(Governor(), seed=1).run(load, 3000).speedup >= 0.98


@pytest.mark.parametrize("overhead", [1e-3, 6e-3, 9e-3])
def test_never_slower_where_drafting_costs_much_of_a_step(overhead: float) -> None:
    """As on a slow processor: what undrafted steps cost must not be told from those in which an
    engine still does half of what drafting takes.
    """
    load = Load(
        base=16e-3, per_token=2e-4, num_rows=44, acceptance=0.5, overhead=overhead, noise=0.05
    )
    assert SimulatedEngine(Governor(), seed=0).run(load, 1500).speedup >= 0.98


@pytest.mark.parametrize(("drift", "overhead"), [(0.02, 9e-3), (0.05, 6e-3)])
def test_never_slower_on_a_machine_that_changes_its_speed(drift: float, overhead: float) -> None:
    """By a third up and down within 100 and 40 steps: an undrafted step of a slow moment is no
    measure for a drafted one of a fast moment.
    """
    load = Load(
        base=16e-3,
        per_token=2e-4,
        num_rows=44,
        acceptance=0.5,
        overhead=overhead,
        noise=0.05,
        drift=drift,
    )
    speedups = [SimulatedEngine(Governor(), seed=seed).run(load, 1500).speedup for seed in range(6)]
    assert np.mean(speedups) >= 0.98


@pytest.mark.parametrize(
    ("num_rows", "acceptance", "overhead"), [(4, 0.25, 4.5e-3), (16, 0.4, 5e-3), (64, 0.5, 10e-3)]
)
def test_never_slower_on_a_machine_whose_speed_wanders(
    num_rows: int, acceptance: float, overhead: float
) -> None:
    """By a fifth, within 50 steps: drafting that got dearer must not pass for a slower machine."""
    load = Load(
        base=14e-3,
        per_token=1.2e-4,
        num_rows=num_rows,
        acceptance=acceptance,
        overhead=overhead,
        noise=0.05,
        wander=0.2,
    )
    speedups = [SimulatedEngine(Governor(), seed=seed).run(load, 2400).speedup for seed in range(6)]
    assert np.mean(speedups) >= 0.985


@pytest.mark.parametrize("num_rows", [1, 16, 64])
def test_a_good_draft_is_used_whatever_the_initial_fit(num_rows: int) -> None:
    load = Load(base=3e-3, per_token=3e-5, num_rows=num_rows, acceptance=0.9, noise=0.05)
    right = StepCost(base=load.base, per_token=load.per_token)
    best = SimulatedEngine(Governor(right), seed=2).run(load, 1000).speedup
    assert best > 1.5
    for factor in (1e-3, 1e3):
        wrong = StepCost(base=load.base, per_token=load.per_token * factor)
        assert SimulatedEngine(Governor(wrong), seed=2).run(load, 1000).speedup > 0.9 * best


def test_drafts_adapt_when_the_load_changes() -> None:
    engine = SimulatedEngine(Governor(), seed=3)
    many = Load(base=3e-3, per_token=1e-4, num_rows=200, acceptance=0.7, noise=0.05)
    few = Load(base=3e-3, per_token=1e-4, num_rows=2, acceptance=0.7, noise=0.05)
    engine.run(many, 300)
    crowded = engine.run(many, 200)
    engine.run(few, 50)
    sparse = engine.run(few, 200)
    per_row = [
        outcome.num_draft_tokens / outcome.num_steps / load.num_rows
        for outcome, load in ((crowded, many), (sparse, few))
    ]
    assert per_row[1] > 2 * per_row[0]
    assert sparse.speedup > 1.5


def test_the_fit_recovers_when_the_engine_gets_slower() -> None:
    engine = SimulatedEngine(Governor(), seed=4)
    load = Load(base=3e-3, per_token=3e-5, num_rows=32, acceptance=0.7, noise=0.05)
    engine.run(load, 400)
    slower = Load(base=6e-3, per_token=2.4e-4, num_rows=32, acceptance=0.7, noise=0.05)
    engine.run(slower, 400)
    found = engine.governor.stats()
    assert found.per_token_seconds == pytest.approx(2.4e-4, rel=0.3)


def test_drafting_turns_off_where_it_does_not_pay_and_is_tried_again() -> None:
    engine = SimulatedEngine(Governor(), seed=5)
    useless = Load(base=3e-3, per_token=1e-4, num_rows=16, acceptance=0.3, overhead=1.5e-3)
    cold = engine.run(useless, 2000)
    off = engine.governor.stats()
    assert off.num_off_steps > 1500
    assert 0.98 <= cold.speedup <= 1.0
    num_drafted = cold.num_steps - off.num_off_steps - off.num_probe_steps
    assert num_drafted <= 50, "what lost before is told within a few steps"
    useful = Load(base=3e-3, per_token=1e-4, num_rows=16, acceptance=0.97, overhead=1.5e-3)
    engine.run(useful, 600)
    again = engine.run(useful, 300)
    assert again.speedup > 1.2
    assert engine.governor.stats().num_off_steps <= off.num_off_steps + 600
    assert engine.governor.stats().gain > 1.2


def test_probes_are_rare_and_of_both_kinds() -> None:
    governor = Governor(StepCost(base=1.0, per_token=0.5))
    survival, offsets = np.full(8, 0.3, np.float32), np.array([0, 8], np.int32)
    lengths = []
    for _ in range(1024):
        plan = governor.plan(1)
        lengths.append(int(governor.choose(survival, offsets)[0]) if plan.is_drafting else -1)
    assert governor.stats().num_probe_steps == 132
    assert lengths.count(-1) == 128
    assert lengths.count(8) == 4
    assert lengths.count(0) == 892
    assert governor.stats().num_cut_tokens == 892 * 8


def test_probes_are_rarer_where_drafting_pays() -> None:
    engine = SimulatedEngine(Governor(), seed=6)
    engine.run(Load(base=3e-3, per_token=3e-5, num_rows=16, acceptance=0.9), 1024)
    assert engine.governor.stats().num_probe_steps <= 45


def test_prefill_beside_the_rows_makes_drafts_no_longer() -> None:
    """It is done once, however many steps the decoding takes."""
    kept = []
    for num_prompt_tokens in (0, 4000):
        governor = Governor(StepCost(base=1e-3, per_token=1e-4, per_prompt_token=1e-5))
        for number in range(200):
            plan = governor.plan(8)
            num_drafts = 20 + number % 30 if plan.is_drafting else 0
            seconds = 1e-3 + 1e-4 * (8 + num_drafts) + 1e-5 * num_prompt_tokens
            governor.observe(
                MeasuredStep(
                    num_rows=8,
                    num_draft_tokens=num_drafts,
                    num_prompt_tokens=num_prompt_tokens,
                    num_emitted=8 + num_drafts,
                    seconds=seconds,
                )
            )
        survival = np.tile(np.float32(0.8) ** np.arange(1, 17, dtype=np.float32), 8)
        kept.append(int(governor.choose(survival, np.arange(0, 129, 16, dtype=np.int32)).sum()))
    assert kept[0] == kept[1] > 0


def test_drafts_of_aborted_requests_prove_nothing() -> None:
    """A bubble closes: 32 rows are gone with their drafts, one row goes on undrafted."""
    kept = []
    for num_aborted in (0, 20):
        governor = Governor(StepCost(base=1e-3, per_token=1e-4))
        survival = np.tile(np.float32(0.8) ** np.arange(1, 17, dtype=np.float32), 32)
        offsets = np.arange(0, 16 * 33, 16, dtype=np.int32)
        for _ in range(num_aborted):
            if governor.plan(32).is_drafting:
                assert governor.choose(survival, offsets).sum() > 0
            governor.plan(1)
            governor.observe(
                MeasuredStep(
                    num_rows=1,
                    num_draft_tokens=0,
                    num_prompt_tokens=0,
                    num_emitted=1,
                    seconds=1.1e-3,
                )
            )
        while not governor.plan(32).min_survival > 0.03:
            pass
        kept.append(int(governor.choose(survival, offsets).sum()))
    assert kept[1] > 0.9 * kept[0] > 0


@pytest.mark.parametrize(("num_accepted", "is_shorter"), [(8, False), (0, True)])
def test_trees_that_promise_too_much_are_drafted_from_less(
    num_accepted: int, is_shorter: bool
) -> None:
    cost = StepCost(base=1.0, per_token=0.05)
    governor = Governor(cost)
    survival = np.float32(0.7) ** np.arange(1, 9, dtype=np.float32)
    offsets = np.array([0, 8], np.int32)
    kept, num_drafts = [], 0
    for _ in range(32):
        plan = governor.plan(1)
        last = num_drafts
        num_drafts = int(governor.choose(survival, offsets)[0]) if plan.is_drafting else 0
        kept.append(num_drafts)
        governor.observe(
            MeasuredStep(
                num_rows=1,
                num_draft_tokens=last,
                num_prompt_tokens=0,
                num_emitted=1 + min(last, num_accepted),
                seconds=cost.seconds(1 + last, num_prompt_tokens=0, drafting=0),
            )
        )
    assert governor.stats().num_off_steps == 0
    assert (kept[-1] < kept[9]) == is_shorter
