"""Python face of the trees: one engine's forest, or that of a tree cache replica.

* Thread safe: calls are serialised inside and release the GIL while they work.
* What the trees refuse is a `TreeError`; they have not changed then. An array of another dtype than
  ``_tree.pyi`` names is a ``TypeError``, because it is a mistake of the caller's.
* No logic here: `_tree.pyi` documents what each method does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from srt_common.errors import TreeError
from srt_common.keys import PromptKey
from srt_common.tree import _tree
from srt_common.tree.stats import ForestStats, PromptStats, RowStats

LEARNED_KEY: Final = PromptKey(_tree.LEARNED_KEY)
"""Stands for the learned tables where snapshots are asked for by prompt key."""

IntArray: TypeAlias = NDArray[np.int32]
FloatArray: TypeAlias = NDArray[np.float32]

Update: TypeAlias = tuple[bytes, int, int, int, int, int, int, bytes, bytes]
"""(prompt_key, sequence_id, offset, policy_version, lane, engine_id, flags, tokens, soft)."""

Recorded: TypeAlias = tuple[IntArray, IntArray, IntArray, IntArray, FloatArray]
"""(offsets [B+1], tokens [T], target offsets [T+1], target token ids [M], target probs [M])."""


@contextmanager
def _refusals(operation: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise TreeError(operation=operation, reason=str(error)) from error


class PromptForest:
    """One tree per prompt and an index over all of them."""

    def __init__(  # noqa: PLR0913
        self,
        *,
        engine_id: int,
        max_bytes: int,
        seed: int,
        soft_targets: bool = True,
        max_recent_positions: int = 32,
        num_threads: int = 1,
        max_early_tokens: int = 1 << 20,
        max_outbox_tokens: int = 1 << 22,
    ) -> None:
        """An empty forest; see `_tree.Forest` for the arguments."""
        with _refusals("open forest"):
            self._native = _tree.Forest(
                engine_id=engine_id,
                max_bytes=max_bytes,
                seed=seed,
                soft_targets=soft_targets,
                max_recent_positions=max_recent_positions,
                num_threads=num_threads,
                max_early_tokens=max_early_tokens,
                max_outbox_tokens=max_outbox_tokens,
            )

    # -- sequences ---------------------------------------------------------------------------------
    def set_prompt(self, prompt_key: PromptKey, token_ids: IntArray) -> None:
        """Give a prompt its text [P]: context of its responses, indexed once at low weight."""
        with _refusals("set prompt"):
            self._native.set_prompt(prompt_key, token_ids)

    def extend(  # noqa: PLR0913
        self,
        prompt_key: PromptKey,
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
        """Append packed tokens at ``offset`` of a sequence; returns how many are new."""
        with _refusals("extend"):
            return self._native.extend(
                prompt_key,
                sequence_id,
                offset,
                policy_version=policy_version,
                lane=lane,
                engine_id=engine_id,
                flags=flags,
                tokens=tokens,
                soft=soft,
            )

    def apply(self, updates: Sequence[Update], max_tokens: int) -> int:
        """Extend by a prefix of ``updates``; returns how many it took, malformed ones included."""
        return self._native.apply(updates, max_tokens)

    def rejected(self) -> tuple[int, str]:
        """How many updates `apply` has refused since the start, and the last reason."""
        return self._native.rejected()

    def mark_used(self, prompt_key: PromptKey, sequence_id: int, offsets: IntArray) -> int:
        """Note that positions supplied an accepted draft token; returns how many are new."""
        with _refusals("mark used"):
            return self._native.mark_used(prompt_key, sequence_id, offsets)

    def remove_sequence(self, prompt_key: PromptKey, sequence_id: int) -> bool:
        """Drop a sequence; returns whether it was held."""
        with _refusals("remove sequence"):
            return self._native.remove_sequence(prompt_key, sequence_id)

    def retain_rollouts(self, prompt_key: PromptKey, max_rollouts: int) -> int:
        """Drop a prompt's least useful sequences beyond ``max_rollouts``; returns how many went."""
        with _refusals("retain rollouts"):
            return self._native.retain_rollouts(prompt_key, max_rollouts)

    def remove_policy_version(self, policy_version: int) -> int:
        """Drop every sequence sampled by this version; returns tokens dropped."""
        with _refusals("remove policy version"):
            return self._native.remove_policy_version(policy_version)

    def remove_prompt(self, prompt_key: PromptKey) -> bool:
        """Drop a whole tree. Open rows of it go on undrafted."""
        with _refusals("remove prompt"):
            return self._native.remove_prompt(prompt_key)

    # -- rows: requests that are decoding ----------------------------------------------------------
    def open_row(  # noqa: PLR0913
        self,
        prompt_key: PromptKey,
        prompt_token_ids: IntArray,
        context_token_ids: IntArray,
        *,
        sequence_id: int,
        policy_version: int,
        lane: int,
        mode: int,
        max_new_tokens: int,
        stop_token_ids: IntArray,
        previous_sequence_id: int | None = None,
    ) -> int:
        """Start a row that decodes here, of a new sequence or of the rollout's previous one;
        returns its handle.
        """
        with _refusals("open row"):
            return self._native.open_row(
                prompt_key,
                prompt_token_ids,
                context_token_ids,
                sequence_id=sequence_id,
                policy_version=policy_version,
                lane=lane,
                mode=mode,
                max_new_tokens=max_new_tokens,
                stop_token_ids=stop_token_ids,
                previous_sequence_id=previous_sequence_id,
            )

    def row_sequence_id(self, row: int) -> int:
        """The sequence that a row appends to."""
        with _refusals("row sequence id"):
            return self._native.row_sequence_id(row)

    def set_row_mode(self, row: int, mode: int) -> None:
        """Change how a row drafts from its next step on."""
        with _refusals("set row mode"):
            self._native.set_row_mode(row, mode)

    def close_row(self, row: int) -> RowStats:
        """End a row. Its tokens stay."""
        with _refusals("close row"):
            return RowStats.of(self._native.close_row(row))

    def step(  # noqa: PLR0913, PLR0917
        self,
        rows: NDArray[np.uint64],
        new_offsets: IntArray,
        new_tokens: IntArray,
        num_verified: IntArray,
        overlap: FloatArray,
        soft_offsets: IntArray,
        soft_token_ids: IntArray,
        soft_probs: FloatArray,
        max_draft_tokens: IntArray,
        min_survival: float,
        recorded: Recorded | None = None,
    ) -> _tree.Drafts:
        """One engine step for B rows: take what they sampled, learn from it, draft what follows.

        With ``recorded`` (replays) the drafts are coupled with the text that follows.
        """
        try:
            return self._native.step(
                rows,
                new_offsets,
                new_tokens,
                num_verified,
                overlap,
                soft_offsets,
                soft_token_ids,
                soft_probs,
                max_draft_tokens,
                min_survival,
                recorded,
            )
        except ValueError as error:
            raise TreeError(operation="step", reason=str(error)) from error

    def drain(self, max_tokens: int) -> list[Update]:
        """Take what rows appended since the last call, oldest first."""
        return self._native.drain(max_tokens)

    def drain_used(self) -> list[tuple[bytes, int, IntArray]]:
        """Take (prompt_key, sequence_id, [n] offsets) of positions newly found useful."""
        return self._native.drain_used()

    # -- reading -----------------------------------------------------------------------------------
    def stats(self) -> ForestStats:
        """A consistent reading. O(number of prompts)."""
        return ForestStats.of(self._native.stats())

    def memory_bytes(self) -> int:
        """Bytes of the trees and of the index over them. O(1)."""
        return self._native.memory_bytes()

    def has_prompt(self, prompt_key: PromptKey) -> bool:
        """Whether a prompt has a tree."""
        with _refusals("has prompt"):
            return self._native.has_prompt(prompt_key)

    def has_evicted(self, prompt_key: PromptKey) -> bool:
        """Whether the bound on memory has cost a prompt its tree, as far as is remembered: what is
        held of it now may lack what came before.
        """
        with _refusals("has evicted"):
            return self._native.has_evicted(prompt_key)

    def prompt_keys(self) -> list[PromptKey]:
        """Prompts held, least recently used first."""
        return [PromptKey(key) for key in self._native.prompt_keys()]

    def prompt_stats(self, prompt_key: PromptKey) -> PromptStats | None:
        """A reading of one tree."""
        with _refusals("prompt stats"):
            native = self._native.prompt_stats(prompt_key)
        return None if native is None else PromptStats.of(native)

    def sequence_tokens(self, prompt_key: PromptKey, sequence_id: int) -> IntArray | None:
        """Tokens held of a sequence [T]."""
        with _refusals("sequence tokens"):
            return self._native.sequence_tokens(prompt_key, sequence_id)

    def snapshot(self, prompt_key: PromptKey) -> bytes | None:
        """Canonical image of a tree, or for `LEARNED_KEY` that of the learned tables."""
        with _refusals("snapshot"):
            return self._native.snapshot(prompt_key)

    def load_snapshot(self, image: bytes) -> PromptKey:
        """Merge an image; returns its prompt key."""
        with _refusals("load snapshot"):
            return PromptKey(self._native.load_snapshot(image))

    def load_snapshot_in_parts(self, image: bytes, max_tokens: int) -> Iterator[None]:
        """The same, at most ``max_tokens`` with each step of the iterator: whoever uses this forest
        too gets its turn in between, if the caller lets it. Refuses before it changes anything.
        """
        with _refusals("load snapshot"):
            for part in _tree.split_snapshot(image, max_tokens):
                self._native.load_snapshot(part)
                yield

    def check(self) -> None:
        """Verify every invariant; ``RuntimeError`` names the first broken one."""
        self._native.check()
