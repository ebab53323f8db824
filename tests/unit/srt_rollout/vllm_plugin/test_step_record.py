"""What the trees learn from a step: each emitted position's own probabilities, in order.

Covers alignment of drafted, replaced and bonus positions; promise 1 itself: the engine tests.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from srt_rollout.vllm_plugin.sampler import Verification
from srt_rollout.vllm_plugin.step_record import StepRecord
from support.sampling import metadata

V = 5


def one_hot_rows(tokens: list[int]) -> torch.Tensor:
    rows = torch.full((len(tokens), V), 0.001)
    rows[torch.arange(len(tokens)), torch.tensor(tokens)] = 1.0
    return rows / rows.sum(1, keepdim=True)


@pytest.fixture
def record() -> StepRecord:
    """Requests with 2, 0 and 1 drafts that peak at tokens 0, 1, 2; bonus rows at 4, 3, 0."""
    record = StepRecord()
    record.num_draft_tokens = [2, 0, 1]
    record.is_ours = [True, False, True]
    record.verification = Verification(
        torch.empty(0), torch.tensor([0.9, 0.4, 0.7]), one_hot_rows([0, 1, 2])
    )
    record.on_bonus(one_hot_rows([4, 3, 0]).log(), metadata(3))
    return record


def peaks(record: StepRecord, rows: list[int], emitted: list[int]) -> list[int]:
    soft = record.soft_rows(rows, emitted, is_processed=True)
    return [int(soft.token_ids[start]) for start in soft.offsets[:-1]]


def test_a_fully_accepted_draft_ends_with_its_bonus_row(record: StepRecord) -> None:
    assert peaks(record, [0, 1, 2], [3, 1, 2]) == [0, 1, 4, 3, 2, 0]


def test_a_refused_draft_ends_with_the_row_it_was_refused_at(record: StepRecord) -> None:
    assert peaks(record, [0, 2], [1, 1]) == [0, 2]
    assert peaks(record, [0], [2]) == [0, 1]


def test_rows_left_out_of_the_batch_are_skipped(record: StepRecord) -> None:
    assert peaks(record, [1], [1]) == [3]


def test_greedy_rows_have_no_soft_targets(record: StepRecord) -> None:
    record.on_bonus(one_hot_rows([4, 3, 0]).log(), metadata(3, 0.0))
    soft = record.soft_rows([0], [3], is_processed=True)
    assert soft.offsets.tolist() == [0, 0, 0, 0]


def test_improbable_tokens_are_dropped(record: StepRecord) -> None:
    soft = record.soft_rows([1], [1], is_processed=True)
    assert soft.token_ids.tolist() == [3]
    assert soft.probs[0] == pytest.approx(1 / 1.004)


def test_many_rows_are_taken_in_the_order_of_the_batch() -> None:
    """More positions than are looked at together, of both kinds."""
    choice = np.random.default_rng(3)
    lengths = choice.integers(0, 4, 400)
    emitted = [int(choice.integers(1, length + 2)) for length in lengths]
    target = choice.integers(0, V, lengths.sum()).tolist()
    bonus = choice.integers(0, V, len(lengths)).tolist()
    record = StepRecord()
    record.num_draft_tokens, record.is_ours = lengths.tolist(), [True] * len(lengths)
    overlap = torch.zeros(len(target))
    record.verification = Verification(torch.empty(0), overlap, one_hot_rows(target))
    record.on_bonus(one_hot_rows(bonus).log(), metadata(len(lengths)))
    rows = [row for row in range(len(lengths)) if row % 7]
    starts = np.cumsum(lengths) - lengths
    expected = [
        token
        for row in rows
        for token in [*target[starts[row] :][: lengths[row]], bonus[row]][: emitted[row]]
    ]
    assert len(expected) > 512
    assert peaks(record, rows, [emitted[row] for row in rows]) == expected


def test_overlap_after_the_first_refusal_is_unknown(record: StepRecord) -> None:
    overlap = record.overlap([0, 1, 2], [1, 1, 1])
    assert overlap[0] == pytest.approx(0.9)
    assert math.isnan(overlap[1])
    assert overlap[2] == pytest.approx(0.7)


def test_drafts_of_others_teach_nothing(record: StepRecord) -> None:
    record.is_ours = [False, False, True]
    assert record.num_verified([0, 1, 2]).tolist() == [0, 0, 1]
    assert record.overlap([0, 1, 2], [1, 1, 1]).tolist() == pytest.approx([0.7])


def test_a_step_without_drafts_has_its_bonus_rows_only() -> None:
    record = StepRecord()
    record.on_bonus(one_hot_rows([4, 3]).log(), metadata(2))
    assert peaks(record, [0, 1], [1, 1]) == [4, 3]
    assert record.num_verified([0, 1]).tolist() == [0, 0]
    assert record.overlap([0, 1], [1, 1]).dtype == np.float32
