"""Cutting a step: every row once, within the token limit, reproducibly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from srt_trainer.micro_batches import MIN_FILL, micro_batches


@given(
    lengths=st.lists(st.integers(1, 50), max_size=30),
    max_tokens=st.integers(1, 200),
    data=st.data(),
)
def test_every_row_is_in_one_batch_and_no_batch_pads_beyond_the_limit(
    lengths: list[int], max_tokens: int, data: st.DataObject
) -> None:
    rows = data.draw(st.permutations(range(len(lengths))))[: len(lengths) // 2 + 1]
    batches = micro_batches(rows, lengths, max_tokens=max_tokens)
    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    for batch in batches:
        padded = len(batch) * max(lengths[row] for row in batch)
        assert padded <= max_tokens or len(batch) == 1
        assert min(lengths[row] for row in batch) >= MIN_FILL * padded / len(batch)
    assert batches == micro_batches(list(reversed(rows)), lengths, max_tokens=max_tokens)


def test_rows_of_similar_length_go_together_longest_first() -> None:
    assert micro_batches([0, 1, 2, 3], [3, 9, 4, 8], max_tokens=18) == [[1, 3], [2, 0]]
