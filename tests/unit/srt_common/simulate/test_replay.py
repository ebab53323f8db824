"""Counts follow their definitions: what a request-step is, which tokens count, what ends a batch,
what the next turn starts with. All by drafters that draft a known number of right tokens.
"""

from __future__ import annotations

import numpy as np
import pytest

from srt_common.simulate.budget import CostModel
from srt_common.simulate.drafters import NoDrafter, PromptLookup
from srt_common.simulate.replay import batches, exact_episodes
from srt_common.simulate.trace import PolicyRows, Rollout, Trace
from support.recorded import Scripted, replayed, rollout, single, trace

ELEVEN = single(range(11))


def test_without_drafts_a_step_gives_one_token_and_the_first_comes_from_prefill() -> None:
    tally = replayed(NoDrafter, trace(ELEVEN), [[ELEVEN]])
    assert (tally.num_tokens, tally.num_request_steps, tally.num_passes) == (10, 10, 10)
    assert (tally.num_draft_tokens, tally.coverage) == (0, 0)


def test_in_exact_replays_the_first_token_counts() -> None:
    tally = replayed(NoDrafter, trace(ELEVEN), [[ELEVEN]], first_token_counts=True)
    assert (tally.num_tokens, tally.num_request_steps) == (11, 11)


def test_a_step_gives_the_accepted_tokens_and_one_more() -> None:
    tally = replayed(lambda: Scripted(4, 0), trace(ELEVEN), [[ELEVEN]])
    assert (tally.num_tokens, tally.num_request_steps, tally.tokens_per_step) == (10, 2, 5.0)
    assert (tally.num_draft_tokens, tally.num_accepted_tokens) == (8, 8)


def test_wrong_tokens_are_drafted_but_neither_accepted_nor_given() -> None:
    tally = replayed(lambda: Scripted(2, 3), trace(ELEVEN), [[ELEVEN]])
    assert (tally.num_tokens, tally.num_request_steps) == (10, 4)  # 3 + 3 + 3 + 1
    assert (tally.num_draft_tokens, tally.num_accepted_tokens) == (5 + 5 + 5 + 4, 2 + 2 + 2 + 1)
    assert tally.by_accepted == {2: 3, 1: 1}
    assert tally.by_draft_length == {5: 3, 4: 1}


def test_a_draft_that_covers_the_end_gives_no_token_beyond_it() -> None:
    short = single(range(5))
    tally = replayed(lambda: Scripted(16, 0), trace(short), [[short]])
    assert (tally.num_tokens, tally.num_request_steps, tally.num_accepted_tokens) == (4, 1, 4)


def test_a_response_of_one_token_takes_no_step() -> None:
    tally = replayed(NoDrafter, trace(single([7])), [[single([7])]])
    assert (tally.num_tokens, tally.num_request_steps, tally.seconds) == (0, 0, 0.0)


def test_coverage_is_the_part_of_steps_that_verified_a_draft() -> None:
    four = single(range(4))
    tally = replayed(lambda: Scripted(1, 0), trace(four), [[four]])
    assert tally.num_request_steps == 2  # 2 tokens, then the last one, which needs no draft
    assert tally.coverage == 1.0
    assert replayed(NoDrafter, trace(four), [[four]]).coverage == 0.0


def test_a_batch_ends_with_its_longest_rollout() -> None:
    rollouts = [single(range(11)), single(range(3))]
    tally = replayed(NoDrafter, trace(*rollouts), [rollouts])
    assert (tally.num_passes, tally.num_request_steps) == (10, 12)
    assert replayed(NoDrafter, trace(*rollouts), [[it] for it in rollouts]).num_passes == 12


def test_time_is_that_of_the_cost_model_with_and_without_drafts() -> None:
    cost = CostModel(c0_seconds=1.0, c1_seconds=0.25)
    rollouts = [single(range(11)), single(range(6))]
    tally = replayed(lambda: Scripted(4, 0), trace(*rollouts), [rollouts], cost=cost)
    assert tally.undrafted_seconds == 10 + 0.25 * 15
    assert tally.seconds == 2 + 0.25 * (3 * 5)
    plain = replayed(NoDrafter, trace(*rollouts), [rollouts], cost=cost)
    assert plain.seconds == plain.undrafted_seconds == tally.undrafted_seconds


def test_every_turn_starts_from_all_text_before_it_and_has_its_own_prefill() -> None:
    turns = rollout(([1, 2, 3], True), ([50, 51], False), ([4, 5], True))
    drafter = Scripted(0, 0)
    tally = replayed(lambda: drafter, trace(turns), [[turns]])
    assert (tally.num_tokens, tally.num_request_steps) == (2 + 1, 2 + 1)
    assert drafter.told == {1: [1000, 1, 2, 3], 2: [1000, 1, 2, 3, 50, 51, 4, 5]}
    assert not any(drafter.is_open.values())


def test_the_same_rollout_twice_in_a_batch_is_two_conversations() -> None:
    turns = rollout(([1, 2], True), ([50], False), ([3, 4], True))
    tally = replayed(PromptLookup, trace(turns), [[turns, turns]])
    assert tally.num_tokens == 4


def test_history_is_told_but_not_decoded() -> None:
    turns = rollout(([1, 2], True), ([50], False), ([3, 4], True))
    drafter = Scripted(4, 0)
    tally = replayed(lambda: drafter, trace(turns), [], history=[turns])
    assert tally.num_request_steps == 0
    assert drafter.told == {1: [1000, 1, 2], 2: [1000, 1, 2, 50, 3, 4]}
    assert not any(drafter.is_open.values())


@pytest.mark.parametrize(("size", "expected"), [(2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_batches_are_full_but_the_last(size: int, expected: list[int]) -> None:
    recorded = trace(*[ELEVEN] * 5)
    assert [len(batch) for batch in batches(recorded, size)] == expected


def test_rollouts_of_two_policy_versions_share_no_batch_where_they_never_ran_together() -> None:
    def of(version: int) -> Rollout:
        return rollout(([1, 2], True), policy_version=version)

    recorded = Trace("run", [], [of(0), of(0), of(0), of(1)], batches_end_with_version=True)
    assert [len(batch) for batch in batches(recorded, 2)] == [2, 1, 1]


def test_an_exact_episode_has_all_earlier_versions_as_history() -> None:
    rows = PolicyRows(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    rollouts = [rollout(([1], True), policy_version=version) for version in (0, 1, 2)]
    other = Rollout(0, 2, np.ones(1, np.int32), rollouts[2].turns, is_exact=False)
    (episode,) = exact_episodes(Trace("t", [], [*rollouts, other], rows), [2])
    assert episode.history == rollouts[:2]
    assert episode.batches == [[rollouts[2]]]
