"""Promise 1: the statistics behind ``srt verify`` accept what is exact and catch what is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_rollout.verify.exact import (
    Path,
    chi_square,
    enumerate_cells,
    holm,
    processed,
)

V, LENGTH = 7, 3


def policy(seed: int, sharpness: float) -> dict[Path, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows: dict[Path, np.ndarray] = {}
    frontier: list[Path] = [()]
    for _ in range(LENGTH):
        for path in frontier:
            weights = np.exp(sharpness * rng.normal(size=V))
            rows[path] = weights / weights.sum()
        frontier = [(*path, token) for path in frontier for token in range(V)]
    return rows


def draw(rows: dict[Path, np.ndarray], num: int, seed: int) -> list[Path]:
    rng = np.random.default_rng(seed)
    sequences: list[Path] = []
    for _ in range(num):
        path: Path = ()
        for _ in range(LENGTH):
            path = (*path, int(rng.choice(V, p=rows[path])))
        sequences.append(path)
    return sequences


def next_probs(rows: dict[Path, np.ndarray], paths: Sequence[Path]) -> np.ndarray:
    return np.stack([rows[path] for path in paths])


@given(seed=st.integers(0, 50), sharpness=st.floats(0, 4), num=st.integers(10, 50_000))
def test_cells_partition_all_sequences(seed: int, sharpness: float, num: int) -> None:
    rows = policy(seed, sharpness)
    cells = enumerate_cells(lambda p: next_probs(rows, p), length=LENGTH, num_sequences=num)
    assert sum(cells.probs.values()) == pytest.approx(1.0)
    totals = dict.fromkeys(cells.probs, 0.0)
    for a in range(V):
        for b in range(V):
            for c in range(V):
                joint = rows[()][a] * rows[(a,)][b] * rows[(a, b)][c]
                totals[cells.of((a, b, c))] += joint
    assert totals == pytest.approx(cells.probs)
    if len(cells.probs) > 1:
        assert min(cells.probs.values()) * num >= 5 - 1e-6


def test_exact_samples_pass_and_their_p_values_are_uniform() -> None:
    rows = policy(1, 1.5)
    cells = enumerate_cells(lambda p: next_probs(rows, p), length=LENGTH, num_sequences=2000)
    p_values = [chi_square(cells, draw(rows, 2000, seed)).p_value for seed in range(40)]
    assert min(p_values) > 1e-4
    assert 0.3 < float(np.mean(p_values)) < 0.7


def test_a_slightly_different_policy_is_caught() -> None:
    rows, biased = policy(1, 1.5), policy(1, 1.4)
    cells = enumerate_cells(lambda p: next_probs(rows, p), length=LENGTH, num_sequences=20_000)
    assert chi_square(cells, draw(biased, 20_000, 0)).p_value < 1e-3


def test_a_sequence_the_policy_cannot_sample_is_caught() -> None:
    rows = {path: np.eye(V)[0] for path in policy(0, 0)}
    cells = enumerate_cells(lambda p: next_probs(rows, p), length=LENGTH, num_sequences=100)
    assert chi_square(cells, [(0, 0, 0)] * 99 + [(1, 0, 0)]).p_value == 0.0


def test_holm_multiplies_the_smallest_by_the_number_of_tests() -> None:
    assert holm([0.01, 0.5, 0.02]) == pytest.approx([0.03, 0.5, 0.04])
    assert holm([0.4, 0.4]) == pytest.approx([0.8, 0.8])


def test_top_k_and_top_p_cut_the_tail() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))
    assert processed(logits, temperature=1, top_k=2, top_p=1)[0] == pytest.approx(
        [0.625, 0.375, 0, 0]
    )
    cut = processed(logits, temperature=1, top_k=0, top_p=0.7)[0]
    assert cut == pytest.approx([0.625, 0.375, 0, 0])
    one = processed(logits, temperature=1, top_k=0, top_p=0.1)[0]
    assert one == pytest.approx([1, 0, 0, 0])
