"""The face of the forest: promise 4, the memory bound, what rows keep, draft and hand on.

Drafts and estimates are compared in test_forest_against_oracle, refusals in test_forest_refusals.
"""

from __future__ import annotations

import threading
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_common.errors import TreeError
from srt_common.keys import PromptKey
from srt_common.tree import (
    FLAG_OBSERVATION,
    LANE_POLICY,
    LANE_RUN_AHEAD,
    MODE_OFF,
    MODE_SAMPLED,
    Drafts,
    PromptForest,
    pack_soft_targets,
    pack_tokens,
    unpack_tokens,
)
from support.trees import (
    KEY,
    NO_PROBS,
    NO_TOKENS,
    extend,
    make_forest,
    open_row,
    step,
    update,
)


# -- promise 4: replay is harmless -----------------------------------------------------------------
@given(st.data())
def test_any_permutation_and_duplication_of_updates_ends_in_the_same_snapshot(
    data: st.DataObject,
) -> None:
    texts = data.draw(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), max_size=4))
    updates = []
    for sequence_id, text in enumerate(texts):
        cuts = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=4)) | {0, len(text)})
        for start, end in pairwise(cuts):
            soft = pack_soft_targets([[(token, 0.9)] for token in text[start:end]])
            flags = FLAG_OBSERVATION if start % 2 else 0
            updates.append(
                update(
                    text[start:end], sequence_id=sequence_id, offset=start, soft=soft, flags=flags
                )
            )
    shuffled = data.draw(st.permutations(updates + data.draw(st.permutations(updates))))
    straight, mixed = make_forest(), make_forest()
    for it in updates:
        extend(straight, it)
    assert mixed.apply(shuffled, 1 << 20) == len(shuffled)
    mixed.check()
    assert mixed.snapshot(KEY) == straight.snapshot(KEY)
    assert mixed.stats().num_early_tokens == 0
    assert mixed.stats().num_tokens == sum(map(len, texts))


def test_an_update_ahead_of_its_offset_is_counted_when_its_gap_closes() -> None:
    forest = make_forest()
    assert extend(forest, update([3, 4], offset=2)) == 0
    assert forest.stats().num_early_tokens == 2
    assert extend(forest, update([1, 2])) == 4
    held = forest.sequence_tokens(KEY, 5)
    assert held is not None
    assert held.tolist() == [1, 2, 3, 4]


def test_updates_that_waited_longest_are_given_up_when_too_many_wait() -> None:
    forest = make_forest(max_early_tokens=4)
    extend(forest, update([3, 4], sequence_id=1, offset=1))
    extend(forest, update([3, 4], sequence_id=2, offset=1))
    extend(forest, update([3, 4], sequence_id=3, offset=1))
    assert forest.stats().num_early_tokens == 4
    assert forest.stats().num_dropped_tokens == 2
    assert [extend(forest, update([2], sequence_id=i)) for i in (1, 2, 3)] == [1, 3, 3]


def test_the_snapshot_bytes_of_version_1_stay_readable() -> None:
    image = bytes.fromhex(
        "53525454" "0100" + KEY.hex() + "01000000"
        "0500000000000000" "03000000" "01" "02000000" "02000000"
        "01" "01000000" "00000000" "090000"
        "00" "02000000" "06000000" "070000080000" "010700000a00"
        "dd3a20c6"
    )  # fmt: skip
    forest = make_forest()
    assert forest.load_snapshot(image) == KEY
    assert forest.snapshot(KEY) == image
    held = forest.sequence_tokens(KEY, 5)
    assert held is not None
    assert held.tolist() == [9, 7, 8]


def test_a_snapshot_is_loaded_in_parts_between_which_others_get_their_turn() -> None:
    first, second = make_forest(), make_forest()
    for i in range(3):
        extend(first, update(list(range(50)), sequence_id=i))
    image = first.snapshot(KEY)
    assert image is not None
    held = [second.stats().num_tokens for _ in second.load_snapshot_in_parts(image, 20)]
    assert held == [20, 40, 50, 70, 90, 100, 120, 140, 150]
    assert second.snapshot(KEY) == image
    with pytest.raises(TreeError, match="image is damaged"):
        list(second.load_snapshot_in_parts(image[:-1] + b"x", 20))


# -- memory ----------------------------------------------------------------------------------------
def test_the_least_recently_used_prompts_without_open_rows_go_first() -> None:
    forest = make_forest(max_bytes=60_000)
    first, second = (PromptKey(bytes([i]) * 16) for i in range(2))
    open_row(forest, key=first)
    extend(forest, update([1, 2, 3], key=second))
    for i in range(2, 40):
        extend(forest, update(list(range(40)), key=bytes([i]) * 16))
        assert forest.memory_bytes() == forest.stats().memory_bytes <= 60_000
    kept = forest.prompt_keys()
    assert first in kept
    assert second not in kept
    assert kept[1:] == [bytes([i]) * 16 for i in range(41 - len(kept), 40)]
    assert forest.stats().num_evicted_prompts == 40 - len(kept)
    forest.check()


def test_rows_go_on_when_memory_takes_no_more() -> None:
    forest = make_forest(max_bytes=12_000)
    row = open_row(forest)
    for i in range(400):
        drafts = step(forest, row, [i % 7, (i + 3) % 7])
        assert forest.memory_bytes() <= 12_000
    stats = forest.stats()
    assert 0 < stats.num_tokens < 800
    assert stats.num_refused_tokens > 0
    assert len(drafts.token_ids) > 0
    assert sum(len(unpack_tokens(it[7])) for it in forest.drain(1 << 20)) == 800
    forest.check()


# -- rows ------------------------------------------------------------------------------------------
def test_tokens_after_a_stop_token_or_beyond_the_limit_are_not_kept() -> None:
    forest = make_forest()
    stopping = open_row(forest, sequence_id=1, stop_token_ids=np.array([9], np.int32))
    limited = open_row(forest, sequence_id=2, max_new_tokens=3)
    step(forest, stopping, [4, 9, 5])
    step(forest, stopping, [6])
    step(forest, limited, [1, 2, 3, 4])
    held = [forest.sequence_tokens(KEY, i) for i in (1, 2)]
    assert [it.tolist() for it in held if it is not None] == [[4, 9], [1, 2, 3]]
    assert len(step(forest, limited, []).token_ids) == 0


def test_a_draft_leaves_room_for_the_token_the_policy_samples_after_it() -> None:
    forest = make_forest()
    extend(forest, update([4, 5, 6, 7, 8, 9, 10]))
    row = open_row(forest, max_new_tokens=4)
    assert step(forest, row, [4, 5], max_draft=6).token_ids.tolist() == [6]


def test_a_draft_ends_after_a_stop_token() -> None:
    forest = make_forest()
    extend(forest, update([4, 5, 6, 7, 8]))
    row = open_row(forest, stop_token_ids=np.array([7], np.int32))
    assert step(forest, row, [4, 5], max_draft=6).token_ids.tolist() == [6, 7]


def test_rows_append_context_as_observation_and_leave_as_one_update_each() -> None:
    forest = make_forest(engine_id=3)
    context = np.array([7, 8], np.int32)
    row = open_row(forest, context=context, policy_version=4, lane=LANE_RUN_AHEAD)
    other = open_row(forest, sequence_id=10)
    step(forest, row, [1])
    step(forest, other, [5])
    soft: dict[str, Any] = {
        "soft_offsets": np.array([0, 2], np.int32),
        "soft_token_ids": np.array([2, 4], np.int32),
        "soft_probs": np.array([0.25, 0.75], np.float32),
    }
    step(forest, row, [2], **soft)
    targets = pack_soft_targets([[], [(2, 0.25), (4, 0.75)]])
    assert forest.stats().num_outbox_tokens == 5
    drained = forest.drain(3)
    assert drained == [
        (KEY, 9, 0, 4, LANE_RUN_AHEAD, 3, FLAG_OBSERVATION, pack_tokens([7, 8]), b""),
        (KEY, 9, 2, 4, LANE_RUN_AHEAD, 3, 0, pack_tokens([1, 2]), targets),
    ]
    assert forest.drain(10) == [(KEY, 10, 0, 0, LANE_POLICY, 3, 0, pack_tokens([5]), b"")]
    assert forest.drain(10) == []
    step(forest, row, [3])
    assert forest.drain(10) == [(KEY, 9, 4, 4, LANE_RUN_AHEAD, 3, 0, pack_tokens([3]), b"")]


def test_the_oldest_updates_go_when_nobody_drains() -> None:
    forest = make_forest(max_outbox_tokens=3)
    for sequence_id in range(3):
        step(forest, open_row(forest, sequence_id=sequence_id), [1, 2])
    assert [it[1] for it in forest.drain(10)] == [2]
    assert forest.stats().num_dropped_outbox_tokens == 4


def test_a_replica_that_applies_what_was_drained_has_the_same_snapshot() -> None:
    engine, replica = make_forest(), make_forest(engine_id=2)
    row = open_row(engine, context=np.array([7], np.int32))
    for token in (1, 2, 3):
        step(engine, row, [token, token])
        replica.apply(engine.drain(1 << 20), 1 << 20)
    assert replica.snapshot(KEY) == engine.snapshot(KEY)


def test_rows_of_a_removed_prompt_go_on_undrafted() -> None:
    forest = make_forest()
    extend(forest, update([4, 5, 6]))
    row = open_row(forest)
    assert len(step(forest, row, [4, 5]).token_ids) > 0
    assert forest.remove_prompt(KEY)
    assert not forest.has_prompt(KEY)
    assert len(step(forest, row, [4, 5]).token_ids) == 0
    assert forest.close_row(row).num_lookups == 1
    forest.check()


def test_a_row_whose_sequence_was_removed_still_drafts_but_keeps_nothing_more() -> None:
    forest = make_forest()
    extend(forest, update([4, 5, 6]))
    row = open_row(forest)
    step(forest, row, [7])
    assert forest.remove_sequence(KEY, 9)
    assert step(forest, row, [4, 5]).token_ids.tolist()[:1] == [6]
    assert forest.sequence_tokens(KEY, 9) is None
    forest.check()


def test_a_row_that_is_switched_off_drafts_nothing_and_looks_nothing_up() -> None:
    forest = make_forest()
    extend(forest, update([4, 5, 6]))
    row = open_row(forest, mode=MODE_OFF)
    assert len(step(forest, row, [4]).token_ids) == 0
    forest.set_row_mode(row, MODE_SAMPLED)
    assert len(step(forest, row, [5]).token_ids) > 0
    step(forest, row, [6], accepted=1)
    stats = forest.close_row(row)
    assert (stats.num_steps, stats.num_lookups, stats.num_hits) == (3, 1, 1)


@pytest.mark.parametrize(("num_verified", "num_hits"), [(0, 0), (1, 1)])
def test_a_draft_that_was_cut_to_nothing_is_no_hit(num_verified: int, num_hits: int) -> None:
    """The governor cuts after the forest has drafted (design 12.7)."""
    forest = make_forest()
    extend(forest, update([4, 5, 6]))
    row = open_row(forest)
    assert len(step(forest, row, [4, 5]).token_ids) > 0
    step(forest, row, [6], accepted=num_verified)
    stats = forest.close_row(row)
    assert (stats.num_lookups, stats.num_hits) == (1, num_hits)
    assert (stats.sum_match_length > 0) == (num_hits > 0)


def test_sampled_drafts_follow_the_q_they_ship() -> None:
    forest = make_forest()
    soft = pack_soft_targets([[], [], [(6, 0.6), (7, 0.3), (8, 0.1)]])
    extend(forest, update([4, 5, 6], soft=soft))
    counts: Counter[int] = Counter()
    num_draws = 2000
    for sequence_id in range(num_draws):
        row = open_row(forest, sequence_id=1000 + sequence_id)
        drafts = step(forest, row, [4, 5], max_draft=1)
        counts[int(drafts.token_ids[0])] += 1
        forest.close_row(row)
        forest.remove_sequence(KEY, 1000 + sequence_id)
    q = dict(zip(drafts.q_token_ids[0].tolist(), drafts.q_probs[0].tolist(), strict=True))
    chi_square = sum(
        (counts[token] - num_draws * q[token]) ** 2 / (num_draws * q[token]) for token in (6, 7, 8)
    )
    assert set(counts) == {6, 7, 8}
    assert chi_square < 18.4  # p = 1e-4 at 2 degrees of freedom


def test_whether_a_position_is_drafted_depends_on_what_stands_before_it_alone() -> None:
    forest = make_forest()
    rng = np.random.default_rng(3)
    for i in range(30):
        extend(forest, update(rng.choice(3, 40, p=(0.7, 0.2, 0.1)).tolist(), sequence_id=i))
    went_on: dict[tuple[int, ...], set[bool]] = {}
    for sequence_id in range(1000, 1600):
        row = open_row(forest, sequence_id=sequence_id)
        drafts = step(forest, row, [1, 2], max_draft=8, min_survival=0.4)
        draft = drafts.token_ids.tolist()
        for end in range(len(draft) + 1):
            went_on.setdefault(tuple(draft[:end]), set()).add(end < len(draft) or end == 8)
        forest.close_row(row)
        forest.remove_sequence(KEY, sequence_id)
    assert all(len(answers) == 1 for answers in went_on.values())
    assert len({len(prefix) for prefix, (goes_on,) in went_on.items() if not goes_on}) > 1


def test_equal_seeds_draft_equally_and_other_seeds_differently() -> None:
    def drafted(seed: int) -> list[int]:
        forest = make_forest(seed=seed)
        rng = np.random.default_rng(0)
        for i in range(20):
            extend(forest, update(rng.integers(0, 4, 30).tolist(), sequence_id=i))
        row = open_row(forest, sequence_id=99)
        return [int(token) for token in step(forest, row, [1, 2], max_draft=32).token_ids]

    assert drafted(1) == drafted(1)
    assert drafted(1) != drafted(2)


def test_threads_may_share_a_forest() -> None:
    forest = make_forest()

    def work(thread: int) -> None:
        for i in range(50):
            sequence_id = 1000 * thread + i
            row = open_row(forest, sequence_id=sequence_id)
            step(forest, row, [i % 5, thread, 3])
            forest.close_row(row)
            forest.apply([update([1, 2, thread], sequence_id=10_000 + sequence_id)], 10)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    forest.check()
    assert forest.stats().num_tokens == 4 * 50 * 6


# -- threads ---------------------------------------------------------------------------------------
NUM_ROWS = 301
ARRAYS = ("offsets", "token_ids", "q_token_ids", "q_probs", "survival", "match_length")


def decoded(forest: PromptForest) -> list[Drafts]:
    """What rows of three prompts are drafted over some steps, each up to its limit; half of a draft
    is accepted. The batch has an order of its own, and not all open rows.
    """
    choice = np.random.default_rng(5)
    keys = [PromptKey(bytes([n]) * 16) for n in range(3)]
    for n in range(60):
        text = (np.cumsum(choice.integers(0, 3, 80)) % 40).tolist()
        extend(forest, update(text, sequence_id=n, key=keys[n % 3]))
    opened = [open_row(forest, sequence_id=100 + n, key=keys[n % 3]) for n in range(NUM_ROWS + 9)]
    rows = choice.permutation(np.array(opened, np.uint64))[:NUM_ROWS]
    limits = choice.integers(0, 9, NUM_ROWS).astype(np.int32)
    lengths, found = np.zeros(NUM_ROWS, np.int32), []
    tokens = [[int(token), int(token) + 1] for token in choice.integers(0, 39, NUM_ROWS)]
    for _ in range(6):
        ends = np.cumsum([0, *map(len, tokens)], dtype=np.int32)
        drafts = forest.step(
            rows,
            ends,
            np.array([token for row in tokens for token in row], np.int32),
            lengths,
            NO_PROBS,
            NO_TOKENS,
            NO_TOKENS,
            NO_PROBS,
            limits,
            0.0,
        )
        found.append(drafts)
        lengths = np.diff(drafts.offsets)
        for row, (start, end) in enumerate(pairwise(drafts.offsets.tolist())):
            kept = drafts.token_ids[start : start + (end - start) // 2].tolist()
            last = [*tokens[row], *kept][-1]
            tokens[row] = [*kept, (last + int(choice.integers(0, 3))) % 40]
    return found


@pytest.mark.parametrize("num_threads", [2, 3, 64])
def test_what_is_drafted_does_not_depend_on_the_number_of_threads(num_threads: int) -> None:
    alone, together = make_forest(num_threads=1), make_forest(num_threads=num_threads)
    pairs = zip(decoded(alone), decoded(together), strict=True)
    for first, second in pairs:
        assert len(first.token_ids) > 2 * NUM_ROWS
        for name in ARRAYS:
            assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert alone.stats() == together.stats()
    together.check()
