"""Distributions are cut and looked up as they were stored; stop tokens are found, not guessed."""

from __future__ import annotations

import numpy as np

from srt_common.simulate.trace import PolicyRows, find_stop_tokens
from support.recorded import single

ROWS = PolicyRows(
    np.asarray([0, 3, 3, 5]),
    np.asarray([7, 8, 9, 4, 7], np.int32),
    np.asarray([0.5, 0.3, 0.2, 0.9, 0.1], np.float32),
)


def test_rows_are_cut_to_their_first_entries() -> None:
    cut = ROWS.select(0, 3, limit=2)
    assert cut.lengths.tolist() == [2, 0, 2]
    assert cut.token_ids.tolist() == [7, 8, 4, 7]
    assert ROWS.select(1, 3).token_ids.tolist() == [4, 7]


def test_a_token_that_a_row_lacks_has_probability_zero() -> None:
    wanted = np.asarray([[8, 4], [7, 9]], np.int32)
    found = ROWS.probabilities(np.asarray([0, 2]), wanted)
    assert np.allclose(found, [[0.3, 0.0], [0.1, 0.0]])


def test_the_stop_token_ends_most_responses_and_stands_in_none() -> None:
    assert find_stop_tokens([single([5, 6, 2]), single([7, 2]), single([8, 9])]).tolist() == [2]
    assert find_stop_tokens([single([2, 6, 2]), single([7, 2])]).tolist() == []
    assert find_stop_tokens([single([5, 1]), single([7, 2]), single([8, 3])]).tolist() == []
    assert find_stop_tokens([]).tolist() == []
