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

from srt_rollout.drafter import NO_SOFT_ROWS, FloatArray, IntArray, SoftRows
from srt_rollout.vllm_plugin.sampler import (
    GREEDY_TEMPERATURE,
    Verification,
    bonus_probs,
)

MAX_SOFT_TARGETS = 8
MIN_SOFT_PROB = 0.004


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
        values = self.verification.overlap.cpu().numpy()
        starts = np.cumsum([0, *self.num_draft_tokens])
        pieces = []
        for row, emitted in zip(rows, num_emitted, strict=True):
            if self.is_ours[row]:
                piece = values[starts[row] : starts[row + 1]].copy()
                piece[emitted:] = np.nan
                pieces.append(piece)
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)

    def soft_rows(
        self, rows: Sequence[int], num_emitted: Sequence[int], *, is_processed: bool
    ) -> SoftRows:
        """The policy's top probabilities at every emitted position of ``rows``, in order.

        Greedy rows have none: what they are sampled from is a point mass.

        Args:
            rows: indices into the batch.
            num_emitted: tokens each of them emitted, at most its drafts + 1.
            is_processed: see `sampler.bonus_probs`.
        """
        if self._bonus_logits is None or self._sampling is None or not rows:
            return NO_SOFT_ROWS
        bonus = bonus_probs(self._bonus_logits, self._sampling, is_processed=is_processed)
        probs = bonus
        if self.verification is not None:
            probs = torch.cat((self.verification.target_probs, bonus))
        index, is_greedy = self._emitted(rows, num_emitted)
        k = min(MAX_SOFT_TARGETS, probs.shape[1])
        top = probs[torch.from_numpy(index).to(probs.device)].topk(k, dim=1)
        values = top.values.cpu().numpy()
        keep = (values >= MIN_SOFT_PROB) & ~is_greedy[:, None]
        offsets = np.zeros(len(index) + 1, dtype=np.int32)
        np.cumsum(keep.sum(1), out=offsets[1:])
        ids = top.indices.cpu().numpy()[keep].astype(np.int32)
        return SoftRows(offsets, ids, values[keep].astype(np.float32, copy=False))

    def _emitted(
        self, rows: Sequence[int], num_emitted: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Index of each emitted position into [target rows, then bonus rows], and whether its row
        is greedy.
        """
        lengths = self.num_draft_tokens or [0] * len(self._bonus_logits)  # type: ignore[arg-type]
        starts = np.cumsum([0, *lengths])
        num_target = 0 if self.verification is None else int(starts[-1])
        greedy = self._greedy_rows(len(lengths))
        index, is_greedy = [], []
        for row, emitted in zip(rows, num_emitted, strict=True):
            at = np.arange(starts[row], starts[row] + emitted)
            if emitted == lengths[row] + 1:
                at[-1] = num_target + row
            index.append(at)
            is_greedy.append(np.full(emitted, greedy[row]))
        return np.concatenate(index).astype(np.int64), np.concatenate(is_greedy)

    def _greedy_rows(self, num_rows: int) -> NDArray[np.bool_]:
        assert self._sampling is not None
        if self._sampling.all_greedy:
            return np.ones(num_rows, dtype=np.bool_)
        if self._sampling.all_random or self._sampling.temperature is None:
            return np.zeros(num_rows, dtype=np.bool_)
        return np.asarray(self._sampling.temperature.cpu().numpy() == GREEDY_TEMPERATURE)
