"""What is known of samples that were sent: in flight, waiting for a next chunk, or done with."""

from __future__ import annotations

import pytest

from srt_common.coordination import UnfinishedSample
from srt_operator.runahead.ledger import Ledger
from srt_operator.runahead.planner import Chunk, Sample

KEY = bytes(range(16))
OPEN = {"rollout-0": 3}


def chunk(sample: int = 0, index: int = 0, engine: str = "rollout-0") -> Chunk:
    return Chunk(engine, KEY, sample, index, max_tokens=32)


def unfinished(sample: int = 0, *, chunk: int, policy_version: int = 7) -> UnfinishedSample:
    return UnfinishedSample(KEY.hex(), sample, policy_version, chunk, token_ids=(5, 6, 7))


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger()
    made.begin(step=5, policy_version=7)
    return made


def only(samples: list[Sample]) -> Sample:
    [sample] = samples
    return sample


def test_a_chunk_is_in_flight_while_its_bubble_is_open(ledger: Ledger) -> None:
    ledger.record(chunk(), epoch=3)
    assert only(ledger.samples([], OPEN)).is_in_flight
    closed = only(ledger.samples([], {}))
    assert (closed.is_in_flight, closed.is_finished) == (False, True)
    assert only(ledger.samples([], {"rollout-0": 4})).is_finished


def test_a_sample_that_has_come_further_may_go_on(ledger: Ledger) -> None:
    ledger.record(chunk(), epoch=3)
    sample = only(ledger.samples([unfinished(chunk=1)], OPEN))
    assert (sample.is_in_flight, sample.is_finished) == (False, False)
    assert (sample.num_chunks, sample.num_tokens, sample.engine) == (1, 3, "rollout-0")


def test_a_chunk_that_never_began_may_be_sent_again_in_the_next_bubble(ledger: Ledger) -> None:
    ledger.record(chunk(index=1), epoch=3)
    assert only(ledger.samples([unfinished(chunk=1)], OPEN)).is_in_flight
    later = only(ledger.samples([unfinished(chunk=1)], {"rollout-0": 4}))
    assert (later.is_in_flight, later.is_finished, later.num_chunks) == (False, False, 1)


def test_samples_begun_before_this_process_go_on_too(ledger: Ledger) -> None:
    sample = only(ledger.samples([unfinished(sample=4, chunk=2)], OPEN))
    assert (sample.index, sample.num_chunks, sample.engine) == (4, 2, "")
    assert ledger.samples([unfinished(chunk=1, policy_version=6)], OPEN) == []


def test_new_weights_begin_an_empty_page(ledger: Ledger) -> None:
    ledger.record(chunk(), epoch=3)
    ledger.begin(step=6, policy_version=7)
    assert len(ledger.samples([], OPEN)) == 1
    ledger.begin(step=6, policy_version=8)
    assert ledger.samples([], OPEN) == []
    assert ledger.num_sent == 1


def test_tokens_are_counted_for_each_step(ledger: Ledger) -> None:
    assert ledger.num_tokens_left(None) is None
    ledger.record(chunk(), epoch=3)
    assert ledger.num_tokens_left(40) == 8
    ledger.record(chunk(1), epoch=3)
    assert ledger.num_tokens_left(40) == 0
    ledger.begin(step=6, policy_version=7)
    assert ledger.num_tokens_left(40) == 40
