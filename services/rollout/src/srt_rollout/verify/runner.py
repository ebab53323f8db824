"""Runs cases and says whether drafting changed what is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from srt_rollout.verify.cases import Case
from srt_rollout.verify.engine import ExactPolicy, VerifyEngine
from srt_rollout.verify.exact import ChiSquare, chi_square, enumerate_cells, holm, processed

LENGTH = 4
"""Tokens of a sequence: enough for drafts to be accepted, refused and completed within it."""
MIN_P_VALUE = 1e-3
"""A case passes when its Holm-corrected p is above."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What one case gave."""

    name: str
    test: ChiSquare
    num_draft_tokens: int
    num_accepted_tokens: int

    @property
    def tells(self) -> bool:
        """Whether it could have failed: something was drafted, and cells were compared."""
        return self.num_draft_tokens > 0 and self.test.degrees_of_freedom > 0


def run_case(
    engine: VerifyEngine, policy: ExactPolicy, case: Case, *, num_sequences: int
) -> CaseResult:
    """Draw with drafting on and test against the enumerated distribution."""
    prompt = case.prompt(engine.vocab_size)
    sampling = case.sampling
    cells = enumerate_cells(
        lambda paths: processed(
            policy.logits(prompt, paths),
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        ),
        length=LENGTH,
        num_sequences=num_sequences,
    )
    sequences = case.draw(engine, num_sequences=num_sequences, length=LENGTH)
    rows = engine.drafter.forest.stats().rows
    return CaseResult(
        case.name, chi_square(cells, sequences), rows.num_draft_tokens, rows.num_accepted_tokens
    )


def passes(results: Sequence[CaseResult]) -> list[bool]:
    """Whether each case's corrected p is above `MIN_P_VALUE`."""
    return [p > MIN_P_VALUE for p in holm([result.test.p_value for result in results])]


def open_engine(model: Path) -> tuple[VerifyEngine, ExactPolicy]:
    """The engine under test and the policy it must sample from."""
    return VerifyEngine(model), ExactPolicy(model)
