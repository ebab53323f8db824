"""Typed face of the native module: one engine's trees, drafting, and their bookkeeping.

Every method releases the GIL while it works and may be called from any thread; calls are serialised
by one lock inside the object. Arrays are C-contiguous numpy arrays of exactly the dtype named
(another dtype is refused with ``TypeError``, a strided view with ``ValueError``).

Packed forms, which are also the wire forms (design 12.6):

* ``tokens``: 3 bytes a token id, little-endian, ids below 2**24.
* ``soft``: per token one count byte ``n`` (0..8), then ``n`` times (3-byte id, 1 byte code). Code
  ``c`` means probability ``exp(-c * 5.6 / 255)``; largest first. A count of 0 means "no soft target
  here". Empty bytes mean that no token of the update has one.

Errors: ``ValueError`` with one sentence naming the field, the value and what is allowed; nothing
has changed then. Source of the algorithm: SRT, arXiv 2601.09083; the estimate is that of
docs/paper-map.md.
"""

from collections.abc import Sequence
from typing import Final, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FLAG_OBSERVATION",
    "LANE_POLICY",
    "LANE_RUN_AHEAD",
    "LEARNED_KEY",
    "MAX_SOFT_TARGETS",
    "MODE_OFF",
    "MODE_POINT_MASS",
    "MODE_SAMPLED",
    "SNAPSHOT_VERSION",
    "Drafts",
    "Forest",
    "ForestStats",
    "PromptStats",
    "RowStats",
    "split_snapshot",
]

_Update: TypeAlias = tuple[bytes, int, int, int, int, int, int, bytes, bytes]
"""(prompt_key, sequence_id, offset, policy_version, lane, engine_id, flags, tokens, soft)."""

_Recorded: TypeAlias = tuple[
    NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]
]
"""(offsets [B+1], tokens [T], target offsets [T+1], target token ids [M], target probs [M])."""

LANE_POLICY: Final[int]
LANE_RUN_AHEAD: Final[int]
FLAG_OBSERVATION: Final[int]
"""Set in ``flags`` when the tokens were not sampled by the policy: context only, never drafted."""

MODE_OFF: Final[int]
MODE_POINT_MASS: Final[int]
MODE_SAMPLED: Final[int]

MAX_SOFT_TARGETS: Final[int]
"""Pairs kept per position and in each sparse q: 8."""

SNAPSHOT_VERSION: Final[int]

LEARNED_KEY: Final[bytes]
"""Stands for the learned tables where snapshots are asked for by prompt key."""

@final
class Drafts:
    """What `Forest.step` proposes for B rows; D positions in all, row after row."""

    @property
    def offsets(self) -> NDArray[np.int32]:
        """[B+1] row i owns positions offsets[i]..offsets[i+1]."""
    @property
    def token_ids(self) -> NDArray[np.int32]:
        """[D] drafted tokens."""
    @property
    def q_token_ids(self) -> NDArray[np.int32]:
        """[D, 8] support of the distribution each token was drawn from; 0 where padded."""
    @property
    def q_probs(self) -> NDArray[np.float32]:
        """[D, 8] its probabilities, summing to 1; 0 where padded. Point mass: (1, 0, ...)."""
    @property
    def survival(self) -> NDArray[np.float32]:
        """[D] calibrated probability that the draft is accepted up to and including this
        position.
        """
    @property
    def match_length(self) -> NDArray[np.int32]:
        """[B] tokens of context matched at the row's first position; 0 when nothing matched."""

@final
class RowStats:
    """What one row drafted; returned when it closes. Counts are tokens unless named otherwise."""

    @property
    def num_steps(self) -> int:
        """Decoding passes; tokens of a step without a verified draft took one each."""
    @property
    def num_lookups(self) -> int:
        """Lookups of which it is known what they led to: the row took part in a later step."""
    @property
    def num_hits(self) -> int:
        """Lookups that led to a draft of which at least one token was verified."""
    @property
    def num_draft_tokens(self) -> int:
        """Drafted tokens that were verified."""
    @property
    def num_accepted_tokens(self) -> int: ...
    @property
    def accepted_by_source(self) -> tuple[int, int, int]:
        """Accepted tokens that came from history, from this policy version (online), from
        run-ahead.
        """
    @property
    def num_remote_draft_tokens(self) -> int:
        """Verified drafted tokens supplied by positions that another engine sampled."""
    @property
    def sum_match_length(self) -> int:
        """Sum of ``match_length`` over hits."""

@final
class ForestStats:
    """A consistent reading of the whole forest."""

    @property
    def num_prompts(self) -> int: ...
    @property
    def num_sequences(self) -> int: ...
    @property
    def num_tokens(self) -> int:
        """Tokens held in sequences, prompts not counted."""
    @property
    def num_run_ahead_tokens(self) -> int: ...
    @property
    def num_run_ahead_tokens_used(self) -> int:
        """Run-ahead positions that supplied at least one accepted draft token."""
    @property
    def memory_bytes(self) -> int:
        """Bytes of the trees and of the index over them: capacities, not lengths. At most
        ``max_bytes``, always. Rows, early arrivals and the outbox have limits of their own.
        """
    @property
    def max_bytes(self) -> int: ...
    @property
    def num_early_tokens(self) -> int:
        """Tokens waiting for the ones before them."""
    @property
    def num_dropped_tokens(self) -> int:
        """Early tokens given up because their buffer was full, since the start."""
    @property
    def num_refused_tokens(self) -> int:
        """Tokens not kept because memory was full and nothing could be evicted, since the start."""
    @property
    def num_evicted_prompts(self) -> int: ...
    @property
    def num_outbox_tokens(self) -> int:
        """Own tokens not yet taken by `drain`."""
    @property
    def num_dropped_outbox_tokens(self) -> int:
        """Own tokens given up because the outbox was full, since the start."""
    @property
    def rows(self) -> RowStats:
        """Sums over all rows, closed ones included."""

@final
class PromptStats:
    @property
    def num_sequences(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_run_ahead_tokens(self) -> int: ...
    @property
    def num_run_ahead_tokens_used(self) -> int: ...
    @property
    def num_run_ahead_sequences(self) -> int: ...
    @property
    def min_policy_version(self) -> int: ...
    @property
    def max_policy_version(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...

def split_snapshot(image: bytes, max_tokens: int) -> list[bytes]:
    """Cut an image into images of at most ``max_tokens`` (at least 1) tokens each. Loaded one after
    another they do what the whole one does, and others may use the forest in between. The image of
    tables stays whole.

    Raises ValueError for what is no canonical image of a tree.
    """

@final
class Forest:
    """The trees of one engine or of one tree cache replica."""

    def __new__(
        cls,
        *,
        engine_id: int,
        max_bytes: int,
        seed: int,
        soft_targets: bool = True,
        max_recent_positions: int = 32,
        num_threads: int = 1,
        max_early_tokens: int = 1 << 20,
        max_outbox_tokens: int = 1 << 22,
    ) -> Self:
        """An empty forest.

        Args:
            engine_id: this engine's id (below 2**32), stamped on what its rows append.
            max_bytes: bound on ``memory_bytes``; the least recently used prompts without an open
                row go first.
            seed: of the draws that make sampled drafts.
            soft_targets: drafts follow the recorded probabilities (gamma 1); otherwise sampled
                tokens count as one observation each (gamma 1.5).
            max_recent_positions: positions read per chain look-up.
            num_threads: that draft for a large batch, 64 rows each or more; 0: a quarter of the
                cores that this process may use, at most 8. Drafts do not depend on it.
            max_early_tokens: bound on tokens that wait for the ones before them.
            max_outbox_tokens: bound on own tokens waiting for `drain`; the oldest go first.
        """

    # -- sequences ---------------------------------------------------------------------------------
    def set_prompt(self, prompt_key: bytes, token_ids: NDArray[np.int32]) -> None:
        """Give a prompt its text [P]: context of its responses, indexed once at low weight.
        Idempotent.
        """
    def extend(
        self,
        prompt_key: bytes,
        sequence_id: int,
        offset: int,
        *,
        policy_version: int,
        lane: int,
        engine_id: int,
        flags: int,
        tokens: bytes,
        soft: bytes,
    ) -> int:
        """Append packed tokens at ``offset`` of a sequence; tokens already held are skipped.

        Returns how many tokens are new; an update ahead of its offset waits (0 now, counted when
        its gap closes), except where this forest has evicted the prompt: then the sequence goes on
        without its beginning, and is joined with it should it come after all. The origin of the
        update that starts a sequence is the sequence's. What memory cannot take is counted in
        ``num_refused_tokens``, not an error.
        """
    def apply(self, updates: Sequence[_Update], max_tokens: int) -> int:
        """Extend by a prefix of ``updates`` of about ``max_tokens`` tokens; returns how many
        updates it took.

        A malformed update is skipped, counted, and named in `rejected`. At least one update is
        taken if there is one.
        """
    def rejected(self) -> tuple[int, str]:
        """How many updates `apply` has refused since the start, and the last reason ("" when
        none).
        """
    def mark_used(self, prompt_key: bytes, sequence_id: int, offsets: NDArray[np.int32]) -> int:
        """Note that positions supplied an accepted draft token; returns how many were not known to
        have.
        """
    def remove_sequence(self, prompt_key: bytes, sequence_id: int) -> bool: ...
    def retain_rollouts(self, prompt_key: bytes, max_rollouts: int) -> int:
        """Drop sequences of a prompt until at most ``max_rollouts`` are left; returns how many
        went. Least used ones of old policy versions go first, those of the newest version last,
        those that are decoding here never.
        """
    def remove_policy_version(self, policy_version: int) -> int:
        """Drop every sequence sampled by this version; returns tokens dropped."""
    def remove_prompt(self, prompt_key: bytes) -> bool:
        """Drop a whole tree. Open rows of it go on undrafted."""

    # -- rows: requests that are decoding ----------------------------------------------------------
    def open_row(
        self,
        prompt_key: bytes,
        prompt_token_ids: NDArray[np.int32],
        context_token_ids: NDArray[np.int32],
        *,
        sequence_id: int,
        policy_version: int,
        lane: int,
        mode: int,
        max_new_tokens: int,
        stop_token_ids: NDArray[np.int32],
        previous_sequence_id: int | None = None,
    ) -> int:
        """Start a row that decodes here; returns its handle.

        Args:
            prompt_key: 16 bytes.
            prompt_token_ids: [P] the prompt of the first turn, P >= 1.
            context_token_ids: [C] what follows it already (earlier turns or chunks): appended as
                observation tokens at offset 0, so the row's own tokens start at offset C.
            sequence_id: new, below 2**64.
            policy_version: optimizer steps applied to the sampling weights, below 2**32.
            lane: LANE_POLICY or LANE_RUN_AHEAD.
            mode: MODE_OFF, MODE_POINT_MASS or MODE_SAMPLED.
            max_new_tokens: tokens beyond it are not kept; 0 means no limit. Drafts leave room for
                the token that the policy samples after them.
            stop_token_ids: tokens after the first of these are not kept.
            previous_sequence_id: the sequence of the rollout's last turn. Where its row ended here
                with every token kept, its policy version and lane are the row's and the context
                begins with all of it, the row goes on with it: only the rest of the context is
                appended, and ``sequence_id`` is not used. Anywhere else it changes nothing.
        """
    def row_sequence_id(self, row: int) -> int:
        """The sequence that a row appends to. ``ValueError`` for an unknown row."""
    def set_row_mode(self, row: int, mode: int) -> None: ...
    def close_row(self, row: int) -> RowStats:
        """End a row. Its tokens stay. ``ValueError`` for an unknown row."""
    def step(
        self,
        rows: NDArray[np.uint64],
        new_offsets: NDArray[np.int32],
        new_tokens: NDArray[np.int32],
        num_verified: NDArray[np.int32],
        overlap: NDArray[np.float32],
        soft_offsets: NDArray[np.int32],
        soft_token_ids: NDArray[np.int32],
        soft_probs: NDArray[np.float32],
        max_draft_tokens: NDArray[np.int32],
        min_survival: float,
        recorded: _Recorded | None = None,
    ) -> Drafts:
        """One engine step for B rows: take what they sampled, learn from it, draft what comes next.

        The forest remembers each row's last draft; with ``num_verified`` it learns the mixing
        weights from the token emitted at each verified position (accepted ones, the first rejected
        one, and the bonus position where one was estimated) and the calibration from ``overlap``.

        Args:
            rows: [B] open row handles, no duplicates.
            new_offsets: [B+1] row i sampled new_tokens[new_offsets[i]:new_offsets[i+1]] since its
                last step.
            new_tokens: [N].
            num_verified: [B] how many positions of the row's last draft went through verification
                (a prefix).
            overlap: [sum(num_verified)] or [0]: sum(min(p, q)) at each verified position, NaN where
                the position comes after the first rejected one; empty: the accept bits are used.
            soft_offsets: [N+1] or [0]: soft targets of new token n are entries
                soft_offsets[n]:soft_offsets[n+1].
            soft_token_ids: [M] the policy's top tokens at those positions.
            soft_probs: [M] their probabilities (the 8 largest are used, below 0.004 dropped).
            max_draft_tokens: [B] upper bound of each row's draft, 0..128; 0 means no draft.
            min_survival: a draft ends before the position whose calibrated survival would fall
                below it.
            recorded: replays only: what is known to follow each row's text once ``new_tokens`` are
                in, with the policy's distributions. Drafts are coupled with it: each still follows
                its q, and is accepted exactly when it equals the recorded token.
        """
    def drain(self, max_tokens: int) -> list[_Update]:
        """Take what open and closed rows appended since the last call, oldest first, until
        ``max_tokens`` are reached. Consecutive tokens of a sequence are one update. Tokens the
        trees refused are part of it.
        """
    def drain_used(self) -> list[tuple[bytes, int, NDArray[np.int32]]]:
        """Take (prompt_key, sequence_id, [n] offsets) of positions that supplied accepted tokens
        here since the last call. Offsets ascend; at most ``max_outbox_tokens`` wait.
        """

    # -- reading -----------------------------------------------------------------------------------
    def stats(self) -> ForestStats: ...
    def memory_bytes(self) -> int:
        """As in `stats`, O(1)."""
    def has_prompt(self, prompt_key: bytes) -> bool: ...
    def has_evicted(self, prompt_key: bytes) -> bool:
        """Whether the bound on memory has cost it its tree, as far as is remembered."""
    def prompt_keys(self) -> list[bytes]:
        """Least recently used first."""
    def prompt_stats(self, prompt_key: bytes) -> PromptStats | None: ...
    def sequence_tokens(self, prompt_key: bytes, sequence_id: int) -> NDArray[np.int32] | None:
        """[T] tokens held for a sequence."""
    def snapshot(self, prompt_key: bytes) -> bytes | None:
        """Canonical image of a tree's sequences: equal for equal sets of appends, whatever order
        they came in. The prompt's text, marks of use and learned tables are not part of it.

        For `LEARNED_KEY` the image of the learned tables; None while they have learned nothing.
        """
    def load_snapshot(self, image: bytes) -> bytes:
        """Merge an image (sequences extend as by `extend`, oldest policy version first); returns
        its prompt key. Of an image of tables each cell that rests on more observations is taken
        over: harmless when repeated, the same in any order.
        """
    def check(self) -> None:
        """Verify every invariant; ``RuntimeError`` names the first broken one. For tests and debug
        endpoints.
        """
