"""Log-probabilities and entropies of tokens from logits, without a second copy of the logits.

Shapes: N = tokens, V = vocabulary.

* Softmaxes exist for `CHUNK_TOKENS` tokens at a time, in float32, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK_TOKENS = 1024


def token_log_probs(
    logits: torch.Tensor, token_ids: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the distribution ``softmax(logits / temperature)`` says of given tokens.

    Args:
        logits: [N, V], any floating dtype.
        token_ids: [N] int64.
        temperature: above 0.

    Returns:
        [N] log-probabilities (float32, differentiable in ``logits``) and [N] entropies in nats
        (float32, without gradient).
    """
    outputs = _TokenLogProbs.apply(logits, token_ids, temperature)  # type: ignore[no-untyped-call]
    return outputs[0], outputs[1]


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, token_ids: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs = torch.empty(len(token_ids), dtype=torch.float32, device=logits.device)
        entropies = torch.empty_like(log_probs)
        for rows in _chunks(len(token_ids)):
            all_log_probs = _log_softmax(logits[rows], temperature)
            log_probs[rows] = all_log_probs.gather(1, token_ids[rows].unsqueeze(1)).squeeze(1)
            entropies[rows] = -(all_log_probs.exp() * all_log_probs.clamp(min=-1e30)).sum(dim=1)
        ctx.save_for_backward(logits, token_ids)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return log_probs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """D log p(x) / d logits = (onehot(x) - p) / temperature."""
        logits, token_ids = ctx.saved_tensors
        result = torch.empty_like(logits)
        for rows in _chunks(len(token_ids)):
            scale = gradients[0][rows].unsqueeze(1) / ctx.temperature
            chunk = -_log_softmax(logits[rows], ctx.temperature).exp() * scale
            chunk.scatter_add_(1, token_ids[rows].unsqueeze(1), scale)
            result[rows] = chunk
        return result, None, None


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.log_softmax(logits.float() / temperature, dim=1)


def _chunks(num_tokens: int) -> list[slice]:
    return [slice(start, start + CHUNK_TOKENS) for start in range(0, num_tokens, CHUNK_TOKENS)]
