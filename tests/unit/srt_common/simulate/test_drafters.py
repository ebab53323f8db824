"""Each drafter on traces whose tokens per step are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from srt_common.simulate.arms import Options, Target, episodes, make_arm
from srt_common.simulate.budget import Limits
from srt_common.simulate.drafters import PromptLookup
from srt_common.simulate.replay import exact_episodes
from srt_common.simulate.row import Row
from srt_common.simulate.sources import read_trace
from srt_common.simulate.srt import Srt
from srt_common.simulate.tally import Account, Tally
from srt_common.simulate.trace import PolicyRows, Rollout, Trace
from srt_common.tree import Drafts
from support.recorded import replayed, rollout, single, trace

DATA = Path(__file__).parents[3] / "data"
UNIQUE = single(range(100, 141))
PERIODIC = single([1, 2, 3, 4, 5] * 8)


def played(recorded: Trace, **options: object) -> dict[str, Account]:
    chosen = Options(**{"drafters": ("srt", "suffix"), **options})  # type: ignore[arg-type]
    accounts: dict[str, Account] = {}
    for name in chosen.drafters:
        total = accounts.setdefault(name, Account())
        for episode in episodes(recorded, chosen):
            arm = make_arm(name, recorded, chosen, Target())
            arm.begin(episode.history)
            for batch in episode.batches:
                arm.run(batch)
            total.add(arm.end())
    return accounts


def test_prompt_lookup_drafts_what_followed_the_last_two_tokens() -> None:
    tally = replayed(PromptLookup, trace(PERIODIC), [[PERIODIC]])
    # 1 from prefill; 2 3 4 5 1 2 one a step; then what follows the first "1 2" and all the later
    # ones: 5 tokens are known, 5 more after a step, 15, then more than a draft holds.
    assert tally.by_draft_length == {0: 6, 5: 2, 15: 1, 16: 1}
    assert tally.by_accepted == {0: 6, 5: 3, 15: 1}
    assert tally.num_request_steps == 10


def test_prompt_lookup_finds_the_observation_of_an_earlier_turn() -> None:
    copied = rollout(([1], True), ([70, 71, 72, 73, 74, 75], False), ([70, 71, 72, 73, 74], True))
    tally = replayed(PromptLookup, trace(copied), [[copied]])
    assert (tally.num_tokens, tally.num_request_steps) == (4, 2)  # 71, then 72 73 74 at once


def test_prompt_lookup_has_nothing_for_text_that_never_repeats() -> None:
    tally = replayed(PromptLookup, trace(UNIQUE), [[UNIQUE]])
    assert (tally.num_draft_tokens, tally.tokens_per_step) == (0, 1.0)


@pytest.mark.parametrize("name", ["srt", "suffix"])
def test_history_lets_a_drafter_repeat_what_it_has_seen(name: str) -> None:
    recorded = trace(*[UNIQUE] * 6)
    accounts = played(recorded, batch_size=1, min_survival=0.0)
    tally = accounts[name].tally
    assert tally.num_tokens == 6 * 40
    assert tally.tokens_per_step > 3
    assert accounts[name].held.num_tokens == recorded.num_generated


@pytest.mark.parametrize("name", ["srt", "suffix"])
def test_text_that_never_repeats_gets_one_token_a_step(name: str) -> None:
    rollouts = [single(range(100 * n, 100 * n + 40), prompt_index=n) for n in range(1, 7)]
    tally = played(trace(*rollouts, prompts=7))[name].tally
    assert tally.tokens_per_step == 1.0


def test_a_later_turn_adds_only_what_is_new_of_a_conversation() -> None:
    turns = rollout(*[(list(range(n, n + 8)), n % 20 == 0) for n in range(0, 100, 10)])
    recorded = trace(turns)
    drafter = Srt(recorded, engine_id=1, is_shared=False, seed=0)
    replayed(lambda: drafter, recorded, [[turns]])
    stats = drafter.forest.stats()
    assert (stats.num_sequences, stats.num_tokens) == (1, len(turns.tokens[: turns.turns[-1].end]))


@pytest.mark.parametrize("name", ["srt", "suffix"])
def test_turns_and_observations_reach_a_drafter(name: str) -> None:
    observed = list(range(200, 210))
    turns = rollout((list(range(20)), True), (observed, False), (list(range(30, 60)), True))
    account = played(trace(*[turns] * 4), batch_size=1)[name]
    assert account.tally.num_tokens == 4 * (19 + 29)
    assert sum(timing.num_opened for timing in account.timings) == 8
    assert account.held.num_tokens == 4 * (20 + 30)  # observations are not counted


@pytest.mark.timeout(120)
def test_the_peer_gives_its_published_figure_on_a_dev_trace() -> None:
    """reference: 1.17 tokens per step; counting the first token would give 1.16."""
    recorded = read_trace(DATA / "poem_rl24.npz")
    tally = played(recorded, drafters=("suffix",))["suffix"].tally
    assert tally.tokens_per_step == pytest.approx(1.174, abs=0.001)


def test_sampled_drafts_with_known_distributions_beat_the_peer_and_are_calibrated() -> None:
    recorded = read_trace(DATA / "rl_t06_cut.npz")
    accounts = played(recorded, visits=(2, 2))
    ours, peers = accounts["srt"].tally, accounts["suffix"].tally
    assert (
        ours.num_tokens
        == peers.num_tokens
        == sum(
            it.num_generated for it in recorded.rollouts if it.is_exact and it.policy_version == 4
        )
    )
    assert ours.tokens_per_step > 1.2 * peers.tokens_per_step


def test_a_drafter_that_knows_the_policy_is_always_accepted() -> None:
    """q = p: with distributions of one token, whatever is drafted is what was recorded."""
    recorded = sure(read_trace(DATA / "rl_t06_cut.npz"))
    tally = played(recorded, visits=(0, 0), min_survival=0.0)["srt"].tally
    assert tally.num_accepted_tokens > 0.9 * (tally.num_tokens - tally.num_request_steps)
    assert tally.tokens_per_step > 8


class InOneCall(Srt):
    """Takes in and drafts as an engine does."""

    def _take_in(self, rows: Sequence[Row], handles: NDArray[np.uint64]) -> None:
        """Left to the one call."""

    def _draft(self, rows: Sequence[Row], handles: NDArray[np.uint64], limits: Limits) -> Drafts:
        lengths = [len(row.new_tokens) for row in rows]
        return self.forest.step(
            handles,
            np.cumsum([0, *lengths], dtype=np.int32),
            np.asarray([it for row in rows for it in row.new_tokens], np.int32),
            np.asarray([len(row.draft) for row in rows], np.int32),
            *(self._overlap(rows), *self._soft_targets(rows)),
            np.full(len(rows), limits.max_draft_tokens, np.int32),
            limits.min_survival,
            self._recorded(rows, limits.max_draft_tokens),
        )


def test_taking_in_and_drafting_apart_gives_the_drafts_of_one_call() -> None:
    recorded = read_trace(DATA / "rl_t06_cut.npz")
    batch = exact_episodes(recorded, [0])[0].batches[0]

    def of(kind: type[Srt]) -> Tally:
        return replayed(
            lambda: kind(recorded, engine_id=1, is_shared=False, seed=5),
            recorded,
            [batch],
            first_token_counts=True,
        )

    assert of(InOneCall).by_accepted == of(Srt).by_accepted


def sure(recorded: Trace) -> Trace:
    """One response, sampled by every rollout of a policy that is certain of it."""
    first = recorded.rollouts[0]
    num_tokens = first.num_generated
    rows = PolicyRows(
        np.arange(num_tokens + 1), first.tokens[:num_tokens], np.ones(num_tokens, np.float32)
    )
    seen = Rollout(0, 0, first.tokens, (first.turns[0]._replace(first_row=0),), is_exact=False)
    again = [Rollout(0, 1, seen.tokens, seen.turns) for _ in range(4)]
    return Trace("sure", recorded.prompts, [*[seen] * 4, *again], rows)
