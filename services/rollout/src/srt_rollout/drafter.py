"""Rows that decode, and what to draft for them. Knows no engine: request ids and arrays in, drafts
out.

Lifecycle of a row: `open` when a request is first scheduled, `step` with what it sampled, `close`
when it ends. A row's own tokens enter the trees in the step that follows their sampling, so its
siblings draft from them. A step may also be left out, and its tokens passed with later ones.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import KeysView, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srt_common.governor import Governor, Plan
from srt_common.keys import PromptKey
from srt_common.tree import Drafts, PromptForest, RowStats

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]

_MAX_ROLLOUTS = 1 << 14
"""Rollouts whose last turn is remembered."""

_NO_TOKENS: IntArray = np.zeros(0, dtype=np.int32)
_NO_PROBS: FloatArray = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRequest:
    """A request as the drafter sees it."""

    request_id: str
    prompt_key: PromptKey
    prompt_token_ids: Sequence[int]
    """[P] the prompt of the first turn."""
    context_token_ids: Sequence[int]
    """[C] what follows it already: earlier turns or chunks."""
    policy_version: int
    lane: int
    mode: int
    max_new_tokens: int
    stop_token_ids: Sequence[int]
    rollout_id: str = ""
    """The client's id of a rollout, kept over its turns; empty without one."""


@dataclass(slots=True)
class _Row:
    handle: int
    num_known: int
    """Tokens of the request, prompt included, that the trees have been told."""


@dataclass(frozen=True, slots=True)
class SoftRows:
    """The policy's top probabilities at sampled positions."""

    offsets: IntArray
    """[N+1] or [0] when there are none at all."""
    token_ids: IntArray
    probs: FloatArray


NO_SOFT_ROWS = SoftRows(_NO_TOKENS, _NO_TOKENS, _NO_PROBS)


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What B requests sampled since their last step, in the order of the engine's batch."""

    request_ids: Sequence[str]
    new_tokens: Sequence[IntArray]
    """B arrays; may be empty."""
    num_verified: IntArray
    """[B] verified positions of the row's last draft."""
    overlap: FloatArray
    """[sum(num_verified)] or [0]: sum(min(p, q)); NaN after the first refused position."""
    soft: SoftRows = field(default=NO_SOFT_ROWS)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is proposed for B rows, row after row."""

    offsets: IntArray
    """[B+1] row i owns positions offsets[i]..offsets[i+1]."""
    token_ids: IntArray
    """[N]."""
    q_token_ids: IntArray
    """[N, 8] support of the distribution each was drawn from; 0 where padded."""
    q_probs: FloatArray
    """[N, 8] its probabilities; 0 where padded."""

    @classmethod
    def of(cls, drafts: Drafts) -> Proposal:
        """All that the forest drafted."""
        return cls(drafts.offsets, drafts.token_ids, drafts.q_token_ids, drafts.q_probs)

    def cut(self, lengths: IntArray) -> Proposal:
        """The first ``lengths[i]`` positions of each row."""
        offsets = np.zeros_like(self.offsets)
        np.cumsum(lengths, out=offsets[1:])
        if offsets[-1] == self.offsets[-1]:
            return self
        kept = places_of(self.offsets[:-1], lengths)
        return Proposal(offsets, self.token_ids[kept], self.q_token_ids[kept], self.q_probs[kept])


def places_of(
    starts: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]
) -> NDArray[np.int64]:
    """[sum(lengths)] indices of runs, one after another: ``lengths[i]`` from ``starts[i]`` on."""
    ends = np.cumsum(lengths)
    places: NDArray[np.int64] = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    return places


class _Turns:
    """The sequence of each rollout's last turn; of the most recent rollouts only. Ids are kept as
    digests: a client chooses their length.
    """

    def __init__(self) -> None:
        self._sequences: OrderedDict[bytes, int] = OrderedDict()

    def last(self, rollout_id: str) -> int | None:
        """None for a rollout that is new here, or long gone."""
        return self._sequences.get(_digest(rollout_id))

    def note(self, rollout_id: str, sequence_id: int) -> None:
        """Keep what a rollout's next turn may go on with."""
        digest = _digest(rollout_id)
        self._sequences[digest] = sequence_id
        self._sequences.move_to_end(digest)
        if len(self._sequences) > _MAX_ROLLOUTS:
            self._sequences.popitem(last=False)


def _digest(rollout_id: str) -> bytes:
    return hashlib.blake2b(rollout_id.encode("utf-8", "replace"), digest_size=16).digest()


class Drafter:
    """All rows of one engine. Calls come from the engine's thread; the forest is shared with the
    sync thread.
    """

    def __init__(
        self,
        forest: PromptForest,
        *,
        max_draft_tokens: int,
        min_survival: float | None = None,
    ) -> None:
        """No row is open yet.

        Args:
            forest: the trees.
            max_draft_tokens: of one row in one step.
            min_survival: draft always and down to this survival; None: the governor decides.
        """
        self.forest = forest
        self.governor = Governor() if min_survival is None else None
        self._max_draft_tokens = max_draft_tokens
        self._min_survival = min_survival
        self._rows: dict[str, _Row] = {}
        self._turns = _Turns()

    @property
    def request_ids(self) -> KeysView[str]:
        """Of the open rows."""
        return self._rows.keys()

    def open(self, request: RowRequest) -> None:
        """Start a row: a later turn of a rollout that was decoded here goes on with its sequence,
        anything else gets a fresh id, so that a retried request never meets its earlier attempt.
        """
        handle = self.forest.open_row(
            request.prompt_key,
            np.asarray(request.prompt_token_ids, dtype=np.int32),
            np.asarray(request.context_token_ids, dtype=np.int32),
            sequence_id=secrets.randbits(64),
            policy_version=request.policy_version,
            lane=request.lane,
            mode=request.mode,
            max_new_tokens=request.max_new_tokens,
            stop_token_ids=np.asarray(request.stop_token_ids, dtype=np.int32),
            previous_sequence_id=self._turns.last(request.rollout_id),
        )
        if request.rollout_id:
            self._turns.note(request.rollout_id, self.forest.row_sequence_id(handle))
        num_known = len(request.prompt_token_ids) + len(request.context_token_ids)
        self._rows[request.request_id] = _Row(handle, num_known)

    def num_known(self, request_id: str) -> int:
        """Tokens of a request, prompt included, that have been passed to `step` so far."""
        return self._rows[request_id].num_known

    def close(self, request_id: str) -> RowStats:
        """End a row; its tokens stay in the trees. ``KeyError`` for an unknown request."""
        return self.forest.close_row(self._rows.pop(request_id).handle)

    def plan(self, num_rows: int) -> Plan:
        """Decide how the next step of ``num_rows`` rows is drafted; once a step."""
        if self.governor is not None:
            return self.governor.plan(num_rows)
        assert self._min_survival is not None
        return Plan(is_drafting=True, min_survival=self._min_survival)

    def step(self, batch: StepBatch, plan: Plan) -> Proposal:
        """Learn from what was sampled and draft what comes next: one native call."""
        rows = [self._rows[request_id] for request_id in batch.request_ids]
        lengths = np.fromiter((len(new) for new in batch.new_tokens), np.int32, len(rows))
        offsets = np.zeros(len(rows) + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        cap = self._max_draft_tokens if plan.is_drafting else 0
        drafts = self.forest.step(
            np.fromiter((row.handle for row in rows), np.uint64, len(rows)),
            offsets,
            np.concatenate(batch.new_tokens) if rows else _NO_TOKENS,
            batch.num_verified,
            batch.overlap,
            batch.soft.offsets,
            batch.soft.token_ids,
            batch.soft.probs,
            np.full(len(rows), cap, dtype=np.int32),
            plan.min_survival,
        )
        for row, length in zip(rows, lengths.tolist(), strict=True):
            row.num_known += length
        proposal = Proposal.of(drafts)
        if self.governor is None or not plan.is_drafting:
            return proposal
        return proposal.cut(self.governor.choose(drafts.survival, drafts.offsets))


class DraftBook:
    """What the last step proposed by request, until it comes back for verification."""

    def __init__(self, request_ids: Sequence[str], drafts: Proposal | None) -> None:
        self.drafted: list[list[int]] = []
        """Tokens proposed for each request, in their order."""
        self._drafts = drafts
        self._rows: Mapping[str, tuple[int, list[int]]] = {}
        if drafts is not None:
            tokens, starts = drafts.token_ids.tolist(), drafts.offsets.tolist()
            self.drafted = [tokens[start:end] for start, end in pairwise(starts)]
            rows = zip(request_ids, zip(starts, self.drafted, strict=False), strict=True)
            self._rows = {request_id: row for request_id, row in rows if row[1]}

    def find(self, request_id: str, scheduled: Sequence[int]) -> int | None:
        """Where the drafts of a request begin that are exactly ``scheduled`` (maybe cut short), or
        None when those are not ours.
        """
        start, drafted = self._rows.get(request_id, (0, []))
        is_ours = len(scheduled) > 0 and drafted[: len(scheduled)] == list(scheduled)
        return start if is_ours else None

    def distributions(
        self, starts: Sequence[int], lengths: Sequence[int]
    ) -> tuple[IntArray, FloatArray]:
        """Support [n, 8] and probabilities [n, 8] of so many positions from each start on."""
        assert self._drafts is not None
        at = places_of(np.asarray(starts), np.asarray(lengths))
        return self._drafts.q_token_ids[at], self._drafts.q_probs[at]
