"""How the rollouts of a step are cut into forward passes. Pure.

* Rows of similar length share a pass, so little is padded; the longest come first, so a pass that
  does not fit in memory fails at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MIN_FILL: Final = 0.75
"""A row that would fill less than this share of its padded length begins the next micro-batch."""


def micro_batches(
    rows: Sequence[int], lengths: Sequence[int], *, max_tokens: int
) -> list[list[int]]:
    """Cut rows into micro-batches of at most ``max_tokens`` padded tokens.

    Args:
        rows: row numbers to lay out, in any order.
        lengths: [N] tokens of every row, prompt included.
        max_tokens: limit for rows times longest row; a longer row gets a micro-batch of its own.

    Returns:
        Each of ``rows`` exactly once; equal input, equal output.
    """
    batches: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        longest = lengths[batches[-1][0]] if batches else 0
        fits = bool(batches) and (len(batches[-1]) + 1) * longest <= max_tokens
        if fits and lengths[row] >= MIN_FILL * longest:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
