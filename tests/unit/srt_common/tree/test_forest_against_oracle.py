"""Promise 4 and the estimate: the native forest does what a naive one does, operation by operation.

Compared after every step: what is held, statistics, drafts, their q and survival, who supplied
them, what counts as used, and every invariant. The vocabulary is tiny, so that contexts collide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from numpy.typing import NDArray

from srt_common.keys import PromptKey
from srt_common.tree import (
    FLAG_OBSERVATION,
    MODE_POINT_MASS,
    MODE_SAMPLED,
    Drafts,
    PromptForest,
    RowStats,
    pack_soft_targets,
    pack_tokens,
)
from support.oracle import (
    Drafted,
    OracleForest,
    Origin,
    Pairs,
    Row,
    probability,
    random_pairs,
    random_truth,
)

KEYS = (PromptKey(b"a" * 16), PromptKey(b"b" * 16))
PROMPTS = {KEYS[0]: (0, 1, 0, 1, 2), KEYS[1]: (1,)}
SEQUENCES = range(4)
ENGINE = 1
CLOSE = 1e-4

Place = tuple[PromptKey, int]


class StepArrays(NamedTuple):
    """The arguments of `PromptForest.step` without limits."""

    rows: NDArray[np.uint64]
    new_offsets: NDArray[np.int32]
    new_tokens: NDArray[np.int32]
    num_verified: NDArray[np.int32]
    overlap: NDArray[np.float32]
    soft_offsets: NDArray[np.int32]
    soft_token_ids: NDArray[np.int32]
    soft_probs: NDArray[np.float32]


def soft_bytes(rows: list[Pairs]) -> bytes:
    return pack_soft_targets([[(t, probability(code)) for t, code in row] for row in rows])


@dataclass
class Tally:
    """`RowStats` in the making."""

    num_steps: int = 0
    num_lookups: int = 0
    num_hits: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    accepted_by_source: list[int] = field(default_factory=lambda: [0, 0, 0])
    num_remote_draft_tokens: int = 0
    sum_match_length: int = 0

    def as_stats(self) -> RowStats:
        return RowStats(**{**vars(self), "accepted_by_source": tuple(self.accepted_by_source)})


class ForestMachine(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 2**32),
        num_tokens=st.sampled_from((2, 6, 12)),
        soft_targets=st.booleans(),
        max_recent_positions=st.sampled_from((1, 3, 32)),
    )
    def start(
        self, *, seed: int, num_tokens: int, soft_targets: bool, max_recent_positions: int
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.num_tokens = num_tokens
        self.forest = PromptForest(
            engine_id=ENGINE,
            max_bytes=1 << 30,
            seed=seed,
            soft_targets=soft_targets,
            max_recent_positions=max_recent_positions,
        )
        self.oracle = OracleForest(
            engine_id=ENGINE, soft_targets=soft_targets, max_recent_positions=max_recent_positions
        )
        self.truths = {
            (key, i): random_truth(self.rng, num_tokens) for key in KEYS for i in SEQUENCES
        }
        self.waiting: dict[Place, set[tuple[int, int]]] = {}
        self.rows: dict[int, Row] = {}
        self.tallies: dict[int, Tally] = {}
        self.next_id = 100
        for place, truth in self.truths.items():
            start = 0
            while start < len(truth.tokens) and self.rng.random() < 0.8:
                start = self._hand_over(place, start, truth.run_end(start))
        for key in KEYS:
            self._open(key, num_context=3, is_sampled=key == KEYS[0], lane=0, limit=0, stop=None)

    # -- sequences ---------------------------------------------------------------------------------
    @rule(key=st.sampled_from(KEYS), sequence_id=st.sampled_from(SEQUENCES), data=st.data())
    def extend(self, key: PromptKey, sequence_id: int, data: st.DataObject) -> None:
        truth = self.truths[key, sequence_id]
        start = data.draw(st.integers(0, len(truth.tokens) - 1), "start")
        end = data.draw(st.integers(start + 1, truth.run_end(start)), "end")
        self._hand_over((key, sequence_id), start, end)

    def _hand_over(self, place: Place, start: int, end: int) -> int:
        truth = self.truths[place]
        num_new = self.forest.extend(
            *place,
            start,
            policy_version=truth.origin.policy_version,
            lane=truth.origin.lane,
            engine_id=truth.origin.engine_id,
            flags=FLAG_OBSERVATION if truth.observed[start] else 0,
            tokens=pack_tokens(truth.tokens[start:end]),
            soft=soft_bytes(truth.soft[start:end]),
        )
        self.waiting.setdefault(place, set()).add((start, end))
        assert num_new == self._apply_ready(*place)
        return end

    def _apply_ready(self, key: PromptKey, sequence_id: int) -> int:
        truth, waiting = self.truths[key, sequence_id], self.waiting[key, sequence_id]
        num_new = 0
        while ready := [it for it in waiting if it[0] <= self._held(key, sequence_id)]:
            for start, end in ready:
                waiting.discard((start, end))
                for i in range(max(start, self._held(key, sequence_id)), end):
                    item = (truth.tokens[i], truth.soft[i])
                    self.oracle.append(
                        key, sequence_id, truth.origin, [item], is_observation=truth.observed[i]
                    )
                    num_new += 1
        return num_new

    def _held(self, key: bytes, sequence_id: int) -> int:
        tree = self.oracle.trees.get(key)
        return len(tree.texts[sequence_id].tokens) if tree and sequence_id in tree.texts else 0

    @rule(key=st.sampled_from(KEYS))
    def set_prompt(self, key: PromptKey) -> None:
        self.forest.set_prompt(key, np.array(PROMPTS[key], dtype=np.int32))
        self.oracle.set_prompt(key, PROMPTS[key])

    @rule(
        key=st.sampled_from(KEYS),
        what=st.sampled_from(("sequence", "sequence", "policy version", "prompt")),
        data=st.data(),
    )
    def remove(self, key: PromptKey, what: str, data: st.DataObject) -> None:
        if what == "sequence":
            own = [row.sequence_id for row in self.rows.values() if row.key == key]
            sequence_id = data.draw(st.sampled_from([*SEQUENCES, *own]), "sequence_id")
            self._forget_waiting(lambda place: place == (key, sequence_id))
            was_held = self.oracle.remove_sequence(key, sequence_id)
            assert self.forest.remove_sequence(key, sequence_id) == was_held
        elif what == "policy version":
            version = data.draw(st.integers(0, 2), "policy_version")
            self._forget_waiting(lambda it: self.truths[it].origin.policy_version == version)
            dropped = self.oracle.remove_policy_version(version)
            assert self.forest.remove_policy_version(version) == dropped
        else:
            self._forget_waiting(lambda place: place[0] == key)
            assert self.forest.remove_prompt(key) == self.oracle.remove_prompt(key)

    def _forget_waiting(self, is_gone: Callable[[Place], bool]) -> None:
        self.waiting = {it: known for it, known in self.waiting.items() if not is_gone(it)}

    @rule(key=st.sampled_from(KEYS), sequence_id=st.sampled_from(SEQUENCES), data=st.data())
    def mark_used(self, key: PromptKey, sequence_id: int, data: st.DataObject) -> None:
        offsets = data.draw(st.lists(st.integers(0, 60), max_size=4), "offsets")
        tree = self.oracle.trees.get(key)
        used: set[int] = set()
        num_new = 0
        if tree is not None and sequence_id in tree.texts:
            used = tree.texts[sequence_id].used
            fresh = {it for it in offsets if it < self._held(key, sequence_id)} - used
            used |= fresh
            num_new = len(fresh)
        array = np.array(offsets, dtype=np.int32)
        assert self.forest.mark_used(key, sequence_id, array) == num_new

    # -- rows --------------------------------------------------------------------------------------
    @rule(
        key=st.sampled_from(KEYS),
        num_context=st.integers(0, 20),
        is_sampled=st.booleans(),
        lane=st.integers(0, 1),
        limit=st.sampled_from((0, 3, 12)),
        has_stop=st.booleans(),
    )
    @precondition(lambda self: len(self.rows) < 3)
    def open_row(
        self,
        key: PromptKey,
        *,
        num_context: int,
        is_sampled: bool,
        lane: int,
        limit: int,
        has_stop: bool,
    ) -> None:
        stop = self.num_tokens - 1 if has_stop else None
        self._open(
            key, num_context=num_context, is_sampled=is_sampled, lane=lane, limit=limit, stop=stop
        )

    def _open(
        self,
        key: PromptKey,
        *,
        num_context: int,
        is_sampled: bool,
        lane: int,
        limit: int,
        stop: int | None,
    ) -> None:
        context = self.rng.integers(0, self.num_tokens, num_context).tolist()
        sequence_id, self.next_id = self.next_id, self.next_id + 1
        origin = Origin(1, lane, ENGINE)
        handle = self.forest.open_row(
            key,
            np.array(PROMPTS[key], dtype=np.int32),
            np.array(context, dtype=np.int32),
            sequence_id=sequence_id,
            policy_version=1,
            lane=lane,
            mode=MODE_SAMPLED if is_sampled else MODE_POINT_MASS,
            max_new_tokens=limit,
            stop_token_ids=np.array([] if stop is None else [stop], dtype=np.int32),
        )
        self.oracle.set_prompt(key, PROMPTS[key])
        self.oracle.append(
            key, sequence_id, origin, [(token, ()) for token in context], is_observation=True
        )
        text = [*PROMPTS[key], *context]
        tree = self.oracle.tree(key)
        self.rows[handle] = Row(
            key, tree, text, sequence_id, origin, is_sampled, num_context, limit or None, stop
        )
        self.tallies[handle] = Tally()

    @rule(data=st.data())
    @precondition(lambda self: self.rows)
    def close_row(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.rows)), "row")
        del self.rows[handle]
        assert self.forest.close_row(handle) == self.tallies.pop(handle).as_stats()

    @rule(
        num_rounds=st.integers(1, 8),
        max_draft=st.integers(0, 12),
        min_survival=st.sampled_from((0.0, 0.0, 0.05, 0.4)),
        has_overlap=st.booleans(),
    )
    @precondition(lambda self: self.rows)
    def step(
        self, num_rounds: int, max_draft: int, min_survival: float, *, has_overlap: bool
    ) -> None:
        for _ in range(num_rounds):
            self._step(max_draft, min_survival=min_survival, has_overlap=has_overlap)

    def _step(self, max_draft: int, *, min_survival: float, has_overlap: bool) -> None:
        handles = self.rng.permutation(sorted(self.rows)).tolist()
        verified = {h: self._draw_verified(self.rows[h]) for h in handles}
        sampled = {h: self._draw_sampled(self.rows[h], verified[h]) for h in handles}
        overlap = {h: self.rng.random(verified[h]).astype(np.float32) for h in handles}
        soft = {h: [random_pairs(self.rng, self.num_tokens) for _ in sampled[h]] for h in handles}
        for values in overlap.values():
            values[2:] = math.nan
        if not has_overlap:
            overlap = {}
        arrays = self._arrays(handles, verified, sampled, overlap, soft)
        limits = np.full(len(handles), max_draft, dtype=np.int32)
        drafts = self.forest.step(*arrays, limits, min_survival)
        for handle in sorted(handles):
            values = overlap[handle].tolist() if has_overlap else []
            self._take_in(handle, sampled[handle], soft[handle], verified[handle], values)
        for i, handle in enumerate(handles):
            self._compare_drafts(handle, drafts, i, max_draft, min_survival)

    def _draw_verified(self, row: Row) -> int:
        num_drafted = sum(drafted.token is not None for drafted in row.draft)
        return num_drafted if self.rng.random() < 0.8 else int(self.rng.integers(num_drafted + 1))

    def _draw_sampled(self, row: Row, num_verified: int) -> list[int]:
        accepted = int(self.rng.integers(num_verified + 1))
        draft = [it.token for it in row.draft[:accepted] if it.token is not None]
        fresh = self.rng.integers(0, self.num_tokens, self.rng.integers(0, 3))
        return [*draft, *(int(token) for token in fresh)]

    @staticmethod
    def _arrays(
        handles: list[int],
        verified: dict[int, int],
        sampled: dict[int, list[int]],
        overlap: dict[int, NDArray[np.float32]],
        soft: dict[int, list[Pairs]],
    ) -> StepArrays:
        rows = [row for handle in handles for row in soft[handle]]
        pairs = [pair for row in rows for pair in row]
        tokens = [token for handle in handles for token in sampled[handle]]
        counts = [len(sampled[handle]) for handle in handles]
        overlaps = [overlap.get(handle, np.zeros(0, np.float32)) for handle in handles]
        return StepArrays(
            rows=np.array(handles, dtype=np.uint64),
            new_offsets=np.cumsum([0, *counts], dtype=np.int32),
            new_tokens=np.array(tokens, dtype=np.int32),
            num_verified=np.array([verified[handle] for handle in handles], dtype=np.int32),
            overlap=np.concatenate(overlaps),
            soft_offsets=np.cumsum([0, *map(len, rows)], dtype=np.int32),
            soft_token_ids=np.array([token for token, _ in pairs], dtype=np.int32),
            soft_probs=np.array([probability(code) for _, code in pairs], dtype=np.float32),
        )

    def _take_in(
        self,
        handle: int,
        sampled: list[int],
        soft: list[Pairs],
        num_verified: int,
        overlap: list[float],
    ) -> None:
        row, tally = self.rows[handle], self.tallies[handle]
        kept = sampled if row.num_left is None else sampled[: row.num_left]
        if row.stop_token in kept:
            kept = kept[: kept.index(row.stop_token) + 1]
        tally.num_steps += 1 if num_verified else max(1, len(sampled))
        if row.match_length is not None:
            tally.num_lookups += 1
            tally.num_hits += num_verified > 0
            tally.sum_match_length += row.match_length if num_verified else 0
        num_accepted = self.oracle.learn(row, kept, num_verified, overlap)
        for i, drafted in enumerate(row.draft[:num_verified]):
            tally.num_draft_tokens += 1
            tally.num_remote_draft_tokens += self.oracle.is_remote(drafted.supplier)
            if i < num_accepted:
                tally.num_accepted_tokens += 1
                tally.accepted_by_source[self.oracle.source(drafted.supplier, row)] += 1
        row.is_kept = (
            row.is_kept
            and self.oracle.trees.get(row.key) is row.tree
            and (not kept or self._held(row.key, row.sequence_id) == row.offset)
        )
        if row.is_kept:
            items = list(zip(kept, soft[: len(kept)], strict=True))
            self.oracle.append(row.key, row.sequence_id, row.origin, items, is_observation=False)
        row.text += kept
        row.offset += len(kept)
        if row.num_left is not None:
            row.num_left -= len(kept)
        if kept and kept[-1] == row.stop_token:
            row.num_left = 0
        row.draft, row.match_length = [], None

    # -- drafts ------------------------------------------------------------------------------------
    def _compare_drafts(
        self, handle: int, drafts: Drafts, i: int, max_draft: int, min_survival: float
    ) -> None:
        row = self.rows[handle]
        positions = range(drafts.offsets[i], drafts.offsets[i + 1])
        if row.num_left is not None:
            max_draft = min(max_draft, max(row.num_left - 1, 0))
        is_rooted = self.oracle.trees.get(row.key) is row.tree
        if max_draft == 0 or not is_rooted:
            assert len(positions) == 0
            assert drafts.match_length[i] == 0
            return
        first = self.oracle.estimate(row.key, row.text, is_sampled=row.is_sampled)
        row.match_length = 0 if first is None else first.match_length
        assert drafts.match_length[i] == row.match_length
        self._follow(row, drafts, positions, max_draft, min_survival)

    def _follow(
        self, row: Row, drafts: Drafts, positions: range, max_draft: int, min_survival: float
    ) -> None:
        context, survival, estimate = list(row.text), 1.0, None
        for n in range(max_draft):
            estimate = self.oracle.estimate(row.key, context, estimate, is_sampled=row.is_sampled)
            if estimate is None:
                assert len(positions) == n
                return
            cell = self.oracle.calibration_cell(estimate, is_sampled=row.is_sampled)
            survival *= self.oracle.calibration.value(cell, estimate.confidence)
            drafted = Drafted(estimate, cell)
            row.draft.append(drafted)
            if n == len(positions):
                assert survival < min_survival + CLOSE
                return
            assert survival >= min_survival - CLOSE
            at = positions[n]
            assert abs(drafts.survival[at] - survival) < CLOSE
            token = int(drafts.token_ids[at])
            self._compare_q(row, drafted, drafts, at, token)
            drafted.token = token
            drafted.supplier = self.oracle.supplier(estimate, token)
            context.append(token)
            if token == row.stop_token:
                assert len(positions) == n + 1
                return
        assert len(positions) == max_draft

    def _compare_q(self, row: Row, drafted: Drafted, drafts: Drafts, at: int, token: int) -> None:
        tokens, probs = drafts.q_token_ids[at].tolist(), drafts.q_probs[at].tolist()
        shipped = {t: p for t, p in zip(tokens, probs, strict=True) if p > 0}
        assert token in shipped
        assert abs(sum(shipped.values()) - 1) < CLOSE
        masses = drafted.estimate.q
        q = self.oracle.cut(drafted.estimate, is_sampled=row.is_sampled)
        assert len(shipped) == len(q)
        for mine, theirs in zip(q.values(), probs, strict=False):
            assert abs(mine - theirs) < CLOSE
        for t, p in shipped.items():
            smallest = min(masses[it] for it in q)
            assert masses[t] > smallest - CLOSE
            assert abs(q.get(t, p) - p) < CLOSE

    # -- leaving, reading --------------------------------------------------------------------------
    @rule()
    def drain_used(self) -> None:
        used = {(key, i): set(offsets.tolist()) for key, i, offsets in self.forest.drain_used()}
        assert used == self.oracle.newly_used
        self.oracle.newly_used = {}

    @rule(key=st.sampled_from(KEYS))
    def load_own_snapshot(self, key: PromptKey) -> None:
        image = self.forest.snapshot(key)
        assert (image is not None) == self.forest.has_prompt(key)
        if image is None:
            return
        assert self.forest.load_snapshot(image) == key
        assert self.forest.snapshot(key) == image
        fresh = PromptForest(engine_id=7, max_bytes=1 << 30, seed=0)
        fresh.load_snapshot(image)
        fresh.check()
        if fresh.has_prompt(key):
            assert fresh.snapshot(key) == image

    @invariant()
    def holds_what_the_oracle_holds(self) -> None:
        if not hasattr(self, "forest"):
            return
        self.forest.check()
        texts = {
            (key, i): text
            for key, tree in self.oracle.trees.items()
            for i, text in tree.texts.items()
        }
        for (key, i), text in texts.items():
            held = self.forest.sequence_tokens(PromptKey(key), i)
            assert held is not None
            assert held.tolist() == text.tokens
        run_ahead = [it for it in texts.values() if it.origin is not None and it.origin.lane == 1]
        stats = self.forest.stats()
        assert stats.num_sequences == len(texts)
        assert stats.num_tokens == sum(len(text.tokens) for text in texts.values())
        assert stats.num_run_ahead_tokens == sum(len(text.tokens) for text in run_ahead)
        assert stats.num_run_ahead_tokens_used == sum(len(text.used) for text in run_ahead)


ForestMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestForestAgainstOracle = ForestMachine.TestCase
