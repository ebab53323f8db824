"""What one engine step's verification leaves behind, turned into what the trees learn from.

Filled while the engine samples, read once by `TreeDrafter.propose` after the sampled tokens have
reached the host, so nothing here adds a synchronisation. Shapes as in `sampler`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.v1.sample.metadata import SamplingMetadata

from srt_rollout.drafter import NO_SOFT_ROWS, FloatArray, IntArray, SoftRows, places_of
from srt_rollout.vllm_plugin.sampler import (
    GREEDY_TEMPERATURE,
    Verification,
    bonus_probs,
)

MAX_SOFT_TARGETS = 8
MIN_SOFT_PROB = 0.004
_ROWS_AT_ONCE = 256


class StepRecord:
    """One step of B requests with ``num_draft_tokens[i]`` verified positions each."""

    def __init__(self) -> None:
        self.num_draft_tokens: list[int] = []
        self.is_ours: list[bool] = []
        """[B] the drafts verified were those the row remembers."""
        self.verification: Verification | None = None
        self._bonus_logits: Tensor | None = None
        self._sampling: SamplingMetadata | None = None

    def on_bonus(self, logits: Tensor, sampling: SamplingMetadata) -> None:
        self._bonus_logits, self._sampling = logits, sampling

    def num_verified(self, rows: Sequence[int]) -> IntArray:
        """[len(rows)] positions of each row's own draft that were verified."""
        if not self.num_draft_tokens:
            return np.zeros(len(rows), dtype=np.int32)
        counts = [self.num_draft_tokens[r] if self.is_ours[r] else 0 for r in rows]
        return np.asarray(counts, dtype=np.int32)

    def overlap(self, rows: Sequence[int], num_emitted: Sequence[int]) -> FloatArray:
        """sum(min(p, q)) of the rows' own verified positions; NaN after the first refused one."""
        if self.verification is None:
            return np.zeros(0, dtype=np.float32)
        lengths = np.asarray(self.num_draft_tokens)
        end = np.zeros_like(lengths)
        end[rows] = np.minimum(num_emitted, lengths[rows])
        is_learnt = np.zeros(len(lengths), dtype=np.bool_)
        is_learnt[rows] = np.asarray(self.is_ours)[rows]
        row_of = np.repeat(np.arange(len(lengths)), lengths)
        step = np.arange(len(row_of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        values = np.where(step < end[row_of], self.verification.overlap.cpu().numpy(), np.nan)
        return values[is_learnt[row_of]].astype(np.float32, copy=False)

    def soft_rows(
        self, rows: Sequence[int], num_emitted: Sequence[int], *, is_processed: bool
    ) -> SoftRows:
        """The policy's top probabilities at every emitted position of ``rows``, in order.

        Greedy rows have none: what they are sampled from is a point mass.

        Args:
            rows: rising indices into the batch.
            num_emitted: tokens each of them emitted, at most its drafts + 1.
            is_processed: see `sampler.bonus_probs`.
        """
        if self._bonus_logits is None or self._sampling is None or not rows:
            return NO_SOFT_ROWS
        bonus = bonus_probs(self._bonus_logits, self._sampling, is_processed=is_processed)
        target = bonus[:0] if self.verification is None else self.verification.target_probs
        index, is_greedy = self._emitted(rows, num_emitted)
        is_target = index < len(target)
        top = [*_top(target, index[is_target]), *_top(bonus, index[~is_target] - len(target))]
        order = np.argsort(~is_target, kind="stable")
        values = np.empty((len(index), top[0].values.shape[1]), dtype=np.float32)
        ids = np.empty(values.shape, dtype=np.int32)
        values[order] = torch.cat([part.values for part in top]).cpu().numpy()
        ids[order] = torch.cat([part.indices for part in top]).cpu().numpy()
        keep = (values >= MIN_SOFT_PROB) & ~is_greedy[:, None]
        offsets = np.zeros(len(index) + 1, dtype=np.int32)
        np.cumsum(keep.sum(1), out=offsets[1:])
        return SoftRows(offsets, ids[keep], values[keep])

    def _emitted(
        self, rows: Sequence[int], num_emitted: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Index of each emitted position into [target rows, then bonus rows], and whether its row
        is greedy.
        """
        assert self._bonus_logits is not None
        at, emitted = np.asarray(rows), np.asarray(num_emitted)
        lengths = np.asarray(self.num_draft_tokens or [0] * len(self._bonus_logits))
        num_target = 0 if self.verification is None else int(lengths.sum())
        starts, ends = np.cumsum(lengths) - lengths, np.cumsum(emitted)
        index = places_of(starts[at], emitted)
        is_whole = emitted == lengths[at] + 1
        index[ends[is_whole] - 1] = num_target + at[is_whole]
        return index, np.repeat(self._greedy_rows(len(lengths))[at], emitted)

    def _greedy_rows(self, num_rows: int) -> NDArray[np.bool_]:
        assert self._sampling is not None
        if self._sampling.all_greedy:
            return np.ones(num_rows, dtype=np.bool_)
        if self._sampling.all_random or self._sampling.temperature is None:
            return np.zeros(num_rows, dtype=np.bool_)
        return np.asarray(self._sampling.temperature.cpu().numpy() == GREEDY_TEMPERATURE)


def _top(probs: Tensor, rows: NDArray[np.int64]) -> Sequence[torch.return_types.topk]:
    """The largest probabilities of some rows of [N, V], part by part: a copy of all of them would
    take gigabytes where rows and vocabulary are many.
    """
    k = min(MAX_SOFT_TARGETS, probs.shape[1])
    index = torch.from_numpy(rows).to(probs.device)
    starts = range(0, max(1, len(rows)), _ROWS_AT_ONCE)
    return [probs[index[at : at + _ROWS_AT_ONCE]].topk(k, dim=1) for at in starts]
