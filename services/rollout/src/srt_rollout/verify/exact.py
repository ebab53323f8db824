"""What the policy itself would sample: enumerated sequences, pooled into cells, and the chi-square
test. Pure.

A cell is a sequence whose expected count is at least `MIN_EXPECTED`, or everything else below one
prefix; cells that are still too small share one. Each sequence falls into exactly one cell,
whatever it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

Path = tuple[int, ...]
NextProbs = Callable[[Sequence[Path]], NDArray[np.float64]]
"""[n, V] distribution after each of n sequences."""

MIN_EXPECTED = 5.0
REST: Path = (-1,)
"""The cell of everything too rare for one of its own."""


@dataclass(frozen=True, slots=True)
class ChiSquare:
    """Chi-square of sampled counts against the enumerated distribution."""

    num_sequences: int
    num_cells: int
    chi_square: float
    degrees_of_freedom: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Cells:
    """A partition of all sequences of one length, with the probability of each part."""

    probs: dict[Path, float]
    """A whole sequence, or a prefix that ends in -1: any other continuation of it."""
    prefixes: frozenset[Path]
    """Every sequence, whole or begun, that was frequent enough to be looked at by itself."""

    def of(self, sequence: Sequence[int]) -> Path:
        """The cell a sequence falls into."""
        whole = tuple(sequence)
        if whole in self.probs:
            return whole
        for cut in range(len(whole)):
            if whole[: cut + 1] not in self.prefixes:
                pooled = (*whole[:cut], -1)
                return pooled if pooled in self.probs else REST
        return REST


def enumerate_cells(next_probs: NextProbs, *, length: int, num_sequences: int) -> Cells:
    """Partition the sequences of ``length`` tokens so that each cell expects `MIN_EXPECTED` of
    ``num_sequences``.
    """
    smallest = MIN_EXPECTED / num_sequences
    frontier: dict[Path, float] = {(): 1.0}
    probs: dict[Path, float] = {}
    prefixes: set[Path] = set()
    for depth in range(length):
        if not frontier:
            break
        children: dict[Path, float] = {}
        rows = next_probs(list(frontier))
        for (prefix, prob), row in zip(frontier.items(), rows, strict=True):
            joint = prob * row
            kept = np.flatnonzero(joint >= smallest)
            children.update({(*prefix, int(token)): float(joint[token]) for token in kept})
            pooled = prob - float(joint[kept].sum())
            if pooled > 0:
                probs[(*prefix, -1)] = pooled
        frontier = children
        prefixes.update(frontier)
        if depth == length - 1:
            probs.update(frontier)
    return Cells(_pool(probs, smallest), frozenset(prefixes))


def _pool(probs: dict[Path, float], smallest: float) -> dict[Path, float]:
    """Give cells below ``smallest`` to one shared cell, and that to the smallest of the others if
    still too small.
    """
    large = {cell: prob for cell, prob in probs.items() if prob >= smallest and cell != REST}
    rest = sum(prob for cell, prob in probs.items() if cell not in large)
    while large and 0 < rest < smallest:
        least = min(large, key=large.__getitem__)
        rest += large.pop(least)
    if rest > 0:
        large[REST] = rest
    return large


def chi_square(cells: Cells, sequences: Iterable[Sequence[int]]) -> ChiSquare:
    """Pearson's test that ``sequences`` come from the distribution of ``cells``."""
    counts = Counter(cells.of(sequence) for sequence in sequences)
    total = sum(counts.values())
    expected = np.array([prob * total for prob in cells.probs.values()])
    observed = np.array([counts[cell] for cell in cells.probs], dtype=np.float64)
    freedom = len(expected) - 1
    if observed.sum() < total:  # a sequence to which the policy gives no probability at all
        return ChiSquare(total, len(expected), float("inf"), freedom, 0.0)
    statistic = float(((observed - expected) ** 2 / expected).sum())
    p_value = float(chi2.sf(statistic, freedom)) if freedom else 1.0
    return ChiSquare(total, len(expected), statistic, freedom, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for several tests, in the order given."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = highest
    return [float(p) for p in corrected]


def processed(
    logits: NDArray[np.float64], *, temperature: float, top_k: int, top_p: float
) -> NDArray[np.float64]:
    """[n, V] distributions after temperature, top-k, then top-p, as vLLM applies them."""
    scaled = logits / temperature
    order = np.argsort(scaled, axis=1)
    ascending = np.take_along_axis(scaled, order, axis=1)
    if top_k > 0:
        cut = ascending[:, -min(top_k, ascending.shape[1])][:, None]
        ascending = np.where(ascending < cut, -np.inf, ascending)
    probs = np.exp(ascending - ascending.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    if top_p < 1:
        is_cut = np.cumsum(probs, axis=1) <= 1 - top_p
        is_cut[:, -1] = False
        probs = np.where(is_cut, 0.0, probs)
        probs /= probs.sum(1, keepdims=True)
    result = np.empty_like(probs)
    np.put_along_axis(result, order, probs, axis=1)
    return np.asarray(result)
