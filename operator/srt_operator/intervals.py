"""Confidence intervals of accuracies. Pure.

Wilson's score interval for one proportion, Newcombe's hybrid (method 10) for the difference of two
independent ones (Newcombe 1998, Statistics in Medicine 17:873); both behave near 0 and 1.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

Z_95: Final = 1.959963984540054


def wilson(accuracy: float, num_samples: int, z: float = Z_95) -> tuple[float, float]:
    """Bounds of a proportion seen as ``accuracy`` in ``num_samples >= 1`` independent samples."""
    weight = z * z / num_samples
    centre = (accuracy + weight / 2) / (1 + weight)
    spread = accuracy * (1 - accuracy) / num_samples + weight / (4 * num_samples)
    half_width = z * sqrt(spread) / (1 + weight)
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def difference(
    first: float, num_first: int, second: float, num_second: int, z: float = Z_95
) -> tuple[float, float]:
    """Bounds of ``second - first``, two independent proportions."""
    low_1, high_1 = wilson(first, num_first, z)
    low_2, high_2 = wilson(second, num_second, z)
    seen = second - first
    low = seen - sqrt((second - low_2) ** 2 + (high_1 - first) ** 2)
    high = seen + sqrt((high_2 - second) ** 2 + (first - low_1) ** 2)
    return low, high
