"""Log-probabilities and entropies in chunks equal torch's own, forward and backward."""

from __future__ import annotations

import pytest
import torch

from srt_trainer.token_log_probs import CHUNK_TOKENS, token_log_probs


@pytest.mark.parametrize("num_tokens", [1, 5, CHUNK_TOKENS, CHUNK_TOKENS + 3])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_values_and_gradient_equal_those_of_log_softmax(
    num_tokens: int, temperature: float
) -> None:
    torch.manual_seed(num_tokens)
    logits = 3 * torch.randn(num_tokens, 11)
    token_ids = torch.randint(11, (num_tokens,))
    weights = torch.randn(num_tokens)
    results = []
    for chunked in (True, False):
        leaf = logits.clone().requires_grad_()
        if chunked:
            log_probs, entropies = token_log_probs(leaf, token_ids, temperature)
        else:
            everything = torch.log_softmax(leaf / temperature, dim=1)
            log_probs = everything[torch.arange(num_tokens), token_ids]
            entropies = -(everything.exp() * everything).sum(dim=1)
        (gradient,) = torch.autograd.grad((log_probs * weights).sum(), leaf)
        results.append((log_probs.detach(), entropies.detach(), gradient))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_bfloat16_logits_are_reduced_in_float32() -> None:
    logits = torch.randn(4, 9).bfloat16().requires_grad_()
    token_ids = torch.tensor([0, 3, 8, 8])
    log_probs, entropies = token_log_probs(logits, token_ids, 1.0)
    assert log_probs.dtype == entropies.dtype == torch.float32
    assert not entropies.requires_grad
    expected = torch.log_softmax(logits.float(), dim=1)[torch.arange(4), token_ids]
    torch.testing.assert_close(log_probs, expected)
    (gradient,) = torch.autograd.grad(log_probs.sum(), logits)
    assert gradient.dtype == torch.bfloat16


def test_tokens_that_cannot_be_sampled_leave_the_entropy_finite() -> None:
    logits = torch.tensor([[0.0, 0.0, -float("inf")]])
    log_probs, entropies = token_log_probs(logits, torch.tensor([1]), 1.0)
    assert log_probs.item() == pytest.approx(-0.6931472)
    assert entropies.item() == pytest.approx(0.6931472)
