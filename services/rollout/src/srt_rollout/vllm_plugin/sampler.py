"""Exact verification of drafts that come with a sparse draft distribution. Pure torch, CPU and GPU.

Shapes: B requests, N drafted positions of all requests one after the other, L the longest draft,
V vocabulary, S = 8 pairs of a sparse distribution.

* Position with draft ``x`` drawn from q: kept with probability ``min(1, p(x) / q(x))``; the first
  one refused is replaced by a draw from ``max(p - q, 0)`` (arXiv 2211.17192). A point mass is q
  with one pair, so one rule serves both. Placeholder drafts (-1) have an empty q: refused, replaced
  by a draw from p.
* No dense q and no host synchronisation; only the first refused position of a request is resampled.
* Replaces vLLM's CPU kernels too, which read past their arrays for placeholders (reference:
  docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

PLACEHOLDER = -1
GREEDY_TEMPERATURE = 0.0


@dataclass(frozen=True, slots=True)
class SparseDraft:
    """The distributions N drafted tokens were drawn from."""

    token_ids: Tensor
    """[N, S] int64; 0 where padded."""
    probs: Tensor
    """[N, S] float32, rows sum to 1; 0 where padded; all 0 for a placeholder."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What verifying a step's drafts gave, kept for learning from it."""

    output_token_ids: Tensor
    """[B, L+1] int32: accepted tokens, then the replacement or bonus token, then -1."""
    overlap: Tensor
    """[N] float32: sum(min(p, q)), the probability that a draw from q is accepted."""
    target_probs: Tensor
    """[N, V] float32: p at the drafted positions."""


def verify_drafts(
    draft_token_ids: Tensor,
    num_draft_tokens: list[int],
    draft: SparseDraft,
    target_logits: Tensor,
    bonus_token_ids: Tensor,
    sampling: SamplingMetadata,
) -> Verification:
    """Accept, replace or complete the drafts of B requests.

    Args:
        draft_token_ids: [N] integer ids, -1 for placeholders.
        num_draft_tokens: B lengths that sum to N; N >= 1.
        draft: the distributions the drafts were drawn from, fixed before p was known.
        target_logits: [N, V] float32 after temperature, top-k and top-p.
        bonus_token_ids: [B, 1] drawn from p after the whole draft.
        sampling: of the B requests; rows with temperature 0 accept the argmax only.
    """
    layout = _Layout.of(num_draft_tokens, target_logits.device)
    drafted = draft_token_ids.to(torch.int64)
    probs = target_logits.softmax(dim=-1, dtype=torch.float32)
    overlap = torch.minimum(probs.gather(1, draft.token_ids), draft.probs).sum(1)
    accepted = _accept_random(drafted, num_draft_tokens, draft, probs, sampling)
    greedy = None if sampling.all_random else _greedy_rows(sampling, layout)
    argmax = None
    if greedy is not None:
        argmax = target_logits.argmax(dim=-1)
        is_greedy_token = greedy.repeat_interleave(layout.lengths, output_size=len(drafted))
        accepted = torch.where(is_greedy_token, drafted == argmax, accepted)
    kept = (accepted[layout.flat] & layout.is_valid).to(torch.int32).cumprod(1)
    num_accepted = kept.sum(1)
    refused_at = (layout.starts + num_accepted).clamp_(max=len(drafted) - 1)
    replacement = _draw_residual(probs, draft, refused_at, sampling, num_draft_tokens)
    if greedy is not None and argmax is not None:
        replacement = torch.where(greedy, argmax[refused_at], replacement)
    last = torch.where(num_accepted < layout.lengths, replacement, bonus_token_ids.view(-1))
    output = torch.where(kept > 0, drafted[layout.flat], PLACEHOLDER)
    output = torch.nn.functional.pad(output, (0, 1), value=PLACEHOLDER)
    output.scatter_(1, num_accepted[:, None], last[:, None])
    return Verification(output.to(torch.int32), overlap, probs)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the B requests' drafts lie in the flat [N] order."""

    lengths: Tensor
    """[B]"""
    starts: Tensor
    """[B]"""
    flat: Tensor
    """[B, L] index into [N], clamped where a request has fewer drafts."""
    is_valid: Tensor
    """[B, L]"""

    @classmethod
    def of(cls, num_draft_tokens: Sequence[int], device: torch.device) -> _Layout:
        lengths = np.asarray(num_draft_tokens, dtype=np.int64)
        starts, steps = lengths.cumsum() - lengths, np.arange(lengths.max())
        flat = np.minimum(starts[:, None] + steps, lengths.sum() - 1)
        parts = (lengths, starts, flat, steps < lengths[:, None])
        return cls(*(async_tensor_h2d(part, device) for part in parts))


def emitted_rows(num_draft_tokens: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Which of the N target rows, then B bonus rows, speaks for each place of the output.

    Returns:
        [B*(L+1)] row of each place; behind a request's last its bonus row.
        [N+B] place of each row.
    """
    lengths = np.asarray(num_draft_tokens, dtype=np.int64)
    requests, steps = np.arange(len(lengths)), np.arange(lengths.max() + 1)
    starts = lengths.cumsum() - lengths
    is_valid = steps < lengths[:, None]
    bonus = lengths.sum() + requests
    rows = np.where(is_valid, starts[:, None] + steps, bonus[:, None]).ravel()
    places = requests[:, None] * len(steps) + steps
    of_rows = np.concatenate((places[is_valid], places[requests, lengths]))
    return async_tensor_h2d(rows, device), async_tensor_h2d(of_rows, device)


def _accept_random(
    drafted: Tensor,
    num_draft_tokens: list[int],
    draft: SparseDraft,
    probs: Tensor,
    sampling: SamplingMetadata,
) -> Tensor:
    """[N] bool: u * q(x) <= p(x) in float64, with u from the request's own generator where it has a
    seed. A placeholder has no q.
    """
    uniforms: Tensor = rejection_sampler.generate_uniform_probs(
        len(drafted), num_draft_tokens, sampling.generators, probs.device
    )
    p_x = probs.gather(1, drafted.clamp(min=0)[:, None]).squeeze(1)
    q_x = ((draft.token_ids == drafted[:, None]) * draft.probs).sum(1)
    return (q_x > 0) & (uniforms * q_x <= p_x)


def _greedy_rows(sampling: SamplingMetadata, layout: _Layout) -> Tensor:
    """[B] bool: requests with temperature 0."""
    if sampling.all_greedy or sampling.temperature is None:
        return torch.ones_like(layout.lengths, dtype=torch.bool)
    temperature: Tensor = sampling.temperature
    return temperature == GREEDY_TEMPERATURE


def _draw_residual(
    probs: Tensor,
    draft: SparseDraft,
    at: Tensor,
    sampling: SamplingMetadata,
    num_draft_tokens: list[int],
) -> Tensor:
    """[B] draws from max(p - q, 0) at one position per request: one uniform each, inverted."""
    rows = probs[at]
    residual = rows.scatter_add(1, draft.token_ids[at], -draft.probs[at]).clamp_min_(0)
    residual = torch.where(residual.sum(1, keepdim=True) > 0, residual, rows)
    uniforms = torch.rand(len(at), 1, dtype=torch.float64, device=probs.device)
    for row, generator in sampling.generators.items():
        if num_draft_tokens[row] > 0:
            uniforms[row].uniform_(generator=generator)
    mass = residual.cumsum(1, dtype=torch.float64)
    return torch.searchsorted(mass, uniforms * mass[:, -1:], right=True).squeeze(1)


def bonus_probs(logits: Tensor, sampling: SamplingMetadata, *, is_processed: bool) -> Tensor:
    """[B, V] float32: p at the position after each draft, from what the engine's own sampler
    returned.

    Args:
        logits: [B, V]; with ``is_processed`` after temperature, top-k and top-p, else before them.
        sampling: of the B requests.
        is_processed: which of the two the engine's ``logprobs_mode`` makes its sampler return.
    """
    if not is_processed and sampling.temperature is not None and not sampling.all_greedy:
        temperature = sampling.temperature.masked_fill(
            sampling.temperature == GREEDY_TEMPERATURE, 1.0
        )
        scaled = logits.to(torch.float32) / temperature[:, None]
        logits = apply_top_k_top_p(scaled, sampling.top_k, sampling.top_p)
    return logits.softmax(dim=-1, dtype=torch.float32)


def expand_batch_to_tokens(
    x: Tensor, cu_num_tokens: Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> Tensor:
    """Repeat a value per request [B] for each of its tokens [num_tokens].

    Stands in for vLLM's function of this name, whose CPU version writes to a copy and returns
    uninitialised memory (vLLM issue 55005): every temperature, top-k and top-p of a draft would be
    wrong.
    """
    ends = cu_num_tokens.to(torch.int64)
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    expanded = x.repeat_interleave(counts, output_size=num_tokens)
    if replace_from == replace_to:
        return expanded
    return expanded.masked_fill(expanded == replace_from, replace_to)
