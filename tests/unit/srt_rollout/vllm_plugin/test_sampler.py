"""Promise 1, lossless: one verification step keeps the policy's distribution, exactly.

Covers the pure sampler on synthetic distributions; real engines: tests/integration.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from srt_rollout.vllm_plugin import sampler
from srt_rollout.vllm_plugin.sampler import SparseDraft, Verification, verify_drafts
from support.sampling import metadata

V = 6
DRAWS = 60_000
P = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
Q = torch.tensor([0.1, 0.5, 0.0, 0.4, 0.0, 0.0])


def sparse(q: Tensor, rows: int) -> SparseDraft:
    """q on its support, padded to 8 pairs."""
    ids = torch.nonzero(q).squeeze(1)
    token_ids = torch.zeros(8, dtype=torch.int64)
    probs = torch.zeros(8)
    token_ids[: len(ids)], probs[: len(ids)] = ids, q[ids]
    return SparseDraft(token_ids.repeat(rows, 1), probs.repeat(rows, 1))


def first_tokens(drafted: Tensor, draft: SparseDraft, *temperatures: float) -> np.ndarray:
    """What one request each emits first, for as many requests as there are drafts; they take the
    temperatures in turn.
    """
    rows = len(drafted)
    bonus = torch.multinomial(P, rows, replacement=True)[:, None].to(torch.int32)
    sampling = metadata(rows, *temperatures)
    result = verify_drafts(drafted, [1] * rows, draft, P.log().repeat(rows, 1), bonus, sampling)
    return result.output_token_ids[:, 0].numpy()


def p_value(tokens: np.ndarray) -> float:
    counts = np.bincount(tokens, minlength=V)
    return float(
        chisquare(counts, P.numpy().astype(np.float64) / P.sum().item() * len(tokens)).pvalue
    )


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_a_draft_drawn_from_q_leaves_the_policy_distribution() -> None:
    drafted = torch.multinomial(Q, DRAWS, replacement=True)
    assert p_value(first_tokens(drafted, sparse(Q, DRAWS))) > 1e-3


@pytest.mark.parametrize("token", [0, 1, 5])
def test_a_point_mass_leaves_the_policy_distribution(token: int) -> None:
    point = torch.nn.functional.one_hot(torch.tensor(token), V).float()
    drafted = torch.full((DRAWS,), token)
    assert p_value(first_tokens(drafted, sparse(point, DRAWS))) > 1e-3


def test_a_placeholder_draft_leaves_the_policy_distribution() -> None:
    nothing = SparseDraft(torch.zeros(DRAWS, 8, dtype=torch.int64), torch.zeros(DRAWS, 8))
    assert p_value(first_tokens(torch.full((DRAWS,), -1), nothing)) > 1e-3


def test_a_point_mass_verified_with_q_is_caught() -> None:
    drafted = torch.full((DRAWS,), int(Q.argmax()))
    assert p_value(first_tokens(drafted, sparse(Q, DRAWS))) < 1e-9


def test_a_stale_q_is_caught() -> None:
    drafted = torch.multinomial(Q.flip(0), DRAWS, replacement=True)
    assert p_value(first_tokens(drafted, sparse(Q, DRAWS))) < 1e-9


def test_recovery_from_p_instead_of_the_residual_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_policy(probs: Tensor, _draft: object, at: Tensor, *_rest: object) -> Tensor:
        return torch.multinomial(probs[at], 1).squeeze(1)

    monkeypatch.setattr(sampler, "_draw_residual", from_policy)
    drafted = torch.multinomial(Q, DRAWS, replacement=True)
    assert p_value(first_tokens(drafted, sparse(Q, DRAWS))) < 1e-9


def verify(drafts: list[list[int]], logits: Tensor, temperature: float) -> Verification:
    flat = torch.tensor([token for draft in drafts for token in draft])
    lengths = [len(draft) for draft in drafts]
    ids = torch.zeros(len(flat), 8, dtype=torch.int64)
    ids[:, 0] = flat
    probs = torch.zeros(len(flat), 8)
    probs[:, 0] = 1
    bonus = torch.full((len(drafts), 1), 5, dtype=torch.int32)
    return verify_drafts(
        flat, lengths, SparseDraft(ids, probs), logits, bonus, metadata(len(drafts), temperature)
    )


def test_greedy_requests_accept_exactly_the_argmax_prefix() -> None:
    logits = torch.full((5, V), -5.0)
    for position, token in enumerate([1, 2, 3, 0, 4]):
        logits[position, token] = 5.0
    result = verify([[1, 2, 0], [0, 4], []], logits, temperature=0.0)
    assert result.output_token_ids.tolist() == [[1, 2, 3, -1], [0, 4, 5, -1], [5, -1, -1, -1]]


def test_greedy_requests_beside_sampled_ones_leave_these_their_distribution() -> None:
    drafted = torch.multinomial(Q, 2 * DRAWS, replacement=True)
    found = first_tokens(drafted, sparse(Q, 2 * DRAWS), 0.0, 1.0)
    assert set(found[::2].tolist()) == {int(P.argmax())}
    assert p_value(found[1::2]) > 1e-3


def test_a_request_without_drafts_gets_its_bonus_token() -> None:
    result = verify([[0], []], P.log()[None], temperature=1.0)
    assert result.output_token_ids[1].tolist() == [5, -1]


def test_overlap_is_the_acceptance_probability() -> None:
    drafted = torch.multinomial(Q, DRAWS, replacement=True)
    rows = len(drafted)
    bonus = torch.zeros(rows, 1, dtype=torch.int32)
    result = verify_drafts(
        drafted, [1] * rows, sparse(Q, rows), P.log().repeat(rows, 1), bonus, metadata(rows)
    )
    expected = torch.minimum(P, Q).sum()
    assert torch.allclose(result.overlap, expected.expand(rows), atol=1e-6)
    accepted = (result.output_token_ids[:, 1] >= 0).float().mean()
    assert abs(accepted - expected) < 0.01


def test_expand_repeats_a_value_per_request_and_replaces_zero() -> None:
    expanded = sampler.expand_batch_to_tokens(
        torch.tensor([0.0, 0.7]), torch.tensor([2, 3]), 3, replace_from=0, replace_to=1
    )
    assert expanded.tolist() == pytest.approx([1.0, 1.0, 0.7])


def test_raw_bonus_logits_are_processed_like_the_sampler_does() -> None:
    sampling = metadata(2, 0.5)
    logits = torch.randn(2, V)
    found = sampler.bonus_probs(logits, sampling, is_processed=False)
    assert torch.allclose(found, (logits / 0.5).softmax(-1), atol=1e-6)
