"""SRT's own trees, called as the engine calls them: the native step, all rows at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from srt_common.keys import PROMPT_KEY_BYTES, PromptKey
from srt_common.simulate.budget import Limits
from srt_common.simulate.row import Row
from srt_common.simulate.tally import Held, Timing, cpu_ns
from srt_common.simulate.trace import (
    MAX_TARGETS,
    FloatArray,
    IntArray,
    PolicyRows,
    RaggedRows,
    Trace,
)
from srt_common.tree import (
    FLAG_OBSERVATION,
    LANE_POLICY,
    MODE_POINT_MASS,
    MODE_SAMPLED,
    Drafts,
    PromptForest,
    Recorded,
    Update,
)

MAX_BYTES = 1 << 36
"""A replay measures memory; it does not bound it."""
_NO_IDS: IntArray = np.zeros(0, np.int32)
_NO_PROBS: FloatArray = np.zeros(0, np.float32)


class Srt:
    """One engine's forest."""

    def __init__(self, trace: Trace, *, engine_id: int, is_shared: bool, seed: int) -> None:
        self.timing = Timing()
        self._rows_of_policy = trace.rows
        self._stop_tokens = trace.stop_token_ids
        self._is_coupled = trace.rows is not None
        self._mode = MODE_SAMPLED if self._is_coupled else MODE_POINT_MASS
        self._num_generated = 0
        self._handles: dict[int, int] = {}
        self._sequences: dict[int, int] = {}
        """By conversation: the sequence of its last turn, which the next one goes on with."""
        self._drafts: dict[int, tuple[IntArray, FloatArray]] = {}
        """q of each row's last draft: token ids and probabilities [D, 8]."""
        self.forest = PromptForest(
            engine_id=engine_id,
            max_bytes=MAX_BYTES,
            seed=seed,
            max_outbox_tokens=1 << 22 if is_shared else 0,
        )

    def open(self, row: Row) -> None:
        """Open a row as the worker does when a request is scheduled."""
        key, context = prompt_key(row.rollout.prompt_index), np.ascontiguousarray(row.context)
        start = cpu_ns()
        self._handles[row.number] = self.forest.open_row(
            key,
            row.prompt,
            context,
            sequence_id=row.number,
            policy_version=row.rollout.policy_version,
            lane=LANE_POLICY,
            mode=self._mode,
            max_new_tokens=0,
            stop_token_ids=self._stop_tokens,
            previous_sequence_id=self._sequences.get(row.conversation),
        )
        self.timing.opened(cpu_ns() - start)

    def step(self, rows: Sequence[Row], limits: Limits) -> list[list[int]]:
        """What the engine does in one call of the forest, in two: take in, then draft.

        The same drafts come of it; apart, the halves can be timed as those of other drafters are.
        """
        handles = np.fromiter((self._handles[row.number] for row in rows), np.uint64, len(rows))
        self._take_in(rows, handles)
        if not limits.max_draft_tokens:
            return [[] for _ in rows]
        drafts = self._draft(rows, handles, limits)
        token_ids, starts = drafts.token_ids.tolist(), drafts.offsets[:-1]
        lengths = np.diff(drafts.offsets)
        if limits.cut is not None:
            lengths = limits.cut(drafts.survival, drafts.offsets)
        bounds = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
        cuts = [slice(start, end) for start, end in bounds]
        if self._is_coupled:
            q_ids, q_probs = drafts.q_token_ids, drafts.q_probs
            self._drafts = {
                row.number: (q_ids[cut], q_probs[cut]) for row, cut in zip(rows, cuts, strict=True)
            }
        return [token_ids[cut] for cut in cuts]

    def _take_in(self, rows: Sequence[Row], handles: NDArray[np.uint64]) -> None:
        """New tokens and what became of the last drafts."""
        offsets = _offsets(len(row.new_tokens) for row in rows)
        new_tokens = np.fromiter((it for row in rows for it in row.new_tokens), np.int32)
        verified = np.fromiter((len(row.draft) for row in rows), np.int32, len(rows))
        overlap, soft = self._overlap(rows), self._soft_targets(rows)
        caps = np.zeros(len(rows), np.int32)
        start = cpu_ns()
        self.forest.step(handles, offsets, new_tokens, verified, overlap, *soft, caps, 0.0)
        self.timing.inserted(cpu_ns() - start, len(new_tokens))
        self._num_generated += len(new_tokens)

    def _draft(self, rows: Sequence[Row], handles: NDArray[np.uint64], limits: Limits) -> Drafts:
        nothing = np.zeros(len(rows) + 1, np.int32)
        caps = np.full(len(rows), limits.max_draft_tokens, np.int32)
        told = (handles, nothing, _NO_IDS, nothing[1:], _NO_PROBS, _NO_IDS, _NO_IDS, _NO_PROBS)
        recorded = self._recorded(rows, limits.max_draft_tokens) if self._is_coupled else None
        start = cpu_ns()
        drafts = self.forest.step(*told, caps, limits.min_survival, recorded)
        self.timing.proposed(cpu_ns() - start, len(rows))
        return drafts

    def close(self, row: Row) -> None:
        """Close a row; its tokens stay."""
        handle = self._handles.pop(row.number)
        self._sequences[row.conversation] = self.forest.row_sequence_id(handle)
        if row.is_last_turn:
            del self._sequences[row.conversation]
        self.forest.close_row(handle)

    def drain(self) -> list[Update]:
        """The forest's outbox."""
        return self.forest.drain(1 << 30)

    def apply(self, updates: Sequence[Update]) -> None:
        """As tree sync applies the log."""
        counts = [(len(tokens) // 3, flags) for *_, flags, tokens, _ in updates]
        start = cpu_ns()
        self.forest.apply(updates, 1 << 30)
        self.timing.inserted(cpu_ns() - start, sum(count for count, _ in counts))
        self._num_generated += sum(count for count, flags in counts if flags != FLAG_OBSERVATION)

    def held(self) -> Held:
        """Generated tokens; bytes by the forest's own counter, observations included."""
        return Held(self._num_generated, self.forest.memory_bytes())

    # -- what a verifier with the policy's distributions would return ------------------------------
    def _overlap(self, rows: Sequence[Row]) -> FloatArray:
        """sum(min(p, q)) at verified positions, NaN behind the first refused one."""
        if not self._is_coupled or self._rows_of_policy is None:
            return _NO_PROBS
        parts = [self._overlap_of(row, self._rows_of_policy) for row in rows if row.draft]
        return np.concatenate(parts) if parts else _NO_PROBS

    def _overlap_of(self, row: Row, policy: PolicyRows) -> FloatArray:
        q_ids, q_probs = self._drafts[row.number]
        overlap = np.full(len(row.draft), np.nan, np.float32)
        num_live = min(row.num_accepted + 1, len(row.new_tokens), len(row.draft))
        first = row.next_row - len(row.new_tokens)
        p = policy.probabilities(np.arange(first, first + num_live), q_ids[:num_live])
        overlap[:num_live] = np.minimum(p, q_probs[:num_live]).sum(axis=1)
        return overlap

    def _soft_targets(self, rows: Sequence[Row]) -> tuple[IntArray, IntArray, FloatArray]:
        """The policy's top pairs at the new tokens, where they are known."""
        policy = self._rows_of_policy
        if policy is None:
            return _NO_IDS, _NO_IDS, _NO_PROBS
        ends = [(row.next_row, len(row.new_tokens)) for row in rows]
        return _joined([policy.select(end - n, end, limit=MAX_TARGETS) for end, n in ends])

    def _recorded(self, rows: Sequence[Row], limit: int) -> Recorded:
        """What follows each row, as far as a draft may reach."""
        policy = self._rows_of_policy
        assert policy is not None
        counts = [min(limit, row.turn.end - row.at) for row in rows]
        ahead = list(zip(rows, counts, strict=True))
        text = np.concatenate([row.rollout.tokens[row.at : row.at + n] for row, n in ahead])
        targets = _joined([policy.select(row.next_row, row.next_row + n) for row, n in ahead])
        return (_offsets(counts), text, *targets)


def prompt_key(prompt_index: int) -> PromptKey:
    """A trace names its prompts by number."""
    return PromptKey(prompt_index.to_bytes(PROMPT_KEY_BYTES, "little"))


def _offsets(lengths: Iterable[int]) -> IntArray:
    counted = np.fromiter(lengths, np.int32)
    return np.concatenate([np.zeros(1, np.int32), np.cumsum(counted, dtype=np.int32)])


def _joined(parts: Sequence[RaggedRows]) -> tuple[IntArray, IntArray, FloatArray]:
    return (
        _offsets(np.concatenate([part.lengths for part in parts])),
        np.concatenate([part.token_ids for part in parts]),
        np.concatenate([part.probs for part in parts]),
    )
