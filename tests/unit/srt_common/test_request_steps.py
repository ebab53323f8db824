"""Decoding passes behind an answer, from what vLLM counts of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_common.messages.rollouts import SpeculativeDecodingMetrics


@pytest.mark.parametrize(
    ("num_tokens", "num_accepted", "num_spec_steps", "expected"),
    [
        (1, 0, 0, 0),  # prefill gave the only token
        (10, 0, 0, 9),  # no speculation
        (10, 6, 2, 3),
        (4, 8, 1, 1),  # the last pass accepted beyond the stop token
    ],
)
def test_request_steps(
    num_tokens: int, num_accepted: int, num_spec_steps: int, expected: int
) -> None:
    counted = SpeculativeDecodingMetrics(
        num_spec_steps=num_spec_steps, num_accepted_draft_tokens=num_accepted
    )
    assert counted.num_request_steps(num_tokens) == expected


@given(passes=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=20), cut=...)
def test_request_steps_never_exceed_the_real_passes_and_are_exact_without_a_cut(
    passes: list[tuple[int, int]], cut: bool
) -> None:
    """Each pass drafts and accepts some tokens and adds one; a cut drops the end of the last."""
    accepted = [min(draft, accept) for draft, accept in passes]
    num_tokens = 1 + sum(accepted) + len(passes)
    if cut and passes:
        num_tokens -= accepted[-1]
    counted = SpeculativeDecodingMetrics(
        num_spec_steps=sum(draft > 0 for draft, _ in passes),
        num_accepted_draft_tokens=sum(accepted),
    )
    steps = counted.num_request_steps(num_tokens)
    assert steps <= len(passes)
    if not cut:
        assert steps == len(passes)
