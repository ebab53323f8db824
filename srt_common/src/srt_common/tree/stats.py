"""Readings of rows, prompts and the forest as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from srt_common.tree import _tree


@dataclass(frozen=True, slots=True)
class RowStats:
    """What one row drafted, or the sum over rows. Counts are tokens unless named otherwise."""

    num_steps: int
    """Decoding passes; tokens of a step without a verified draft took one each."""
    num_lookups: int
    """Lookups of which it is known what they led to: the row took part in a later step."""
    num_hits: int
    """Lookups that led to a draft of which at least one token was verified."""
    num_draft_tokens: int
    """Drafted tokens that were verified."""
    num_accepted_tokens: int
    accepted_by_source: tuple[int, int, int]
    """Accepted tokens that came from history, from this policy version, from run-ahead."""
    num_remote_draft_tokens: int
    """Verified drafted tokens supplied by positions that another engine sampled."""
    sum_match_length: int
    """Sum over hits of the tokens of context matched."""

    @classmethod
    def of(cls, native: _tree.RowStats) -> Self:
        """The same reading as a plain value."""
        return cls(**_fields(cls, native))


@dataclass(frozen=True, slots=True)
class ForestStats:
    """A consistent reading of the whole forest."""

    num_prompts: int
    num_sequences: int
    num_tokens: int
    """Tokens held in sequences, prompts not counted."""
    num_run_ahead_tokens: int
    num_run_ahead_tokens_used: int
    """Run-ahead positions that supplied at least one accepted draft token."""
    memory_bytes: int
    max_bytes: int
    num_early_tokens: int
    """Tokens waiting for the ones before them."""
    num_dropped_tokens: int
    """Early tokens given up because their buffer was full, since the start."""
    num_refused_tokens: int
    """Tokens not kept because memory was full and nothing could be evicted, since the start."""
    num_evicted_prompts: int
    num_outbox_tokens: int
    """Own tokens not yet drained."""
    num_dropped_outbox_tokens: int
    """Own tokens given up because the outbox was full, since the start."""
    rows: RowStats
    """Sums over all rows, closed ones included."""

    @classmethod
    def of(cls, native: _tree.ForestStats) -> Self:
        """The same reading as a plain value."""
        return cls(**{**_fields(cls, native), "rows": RowStats.of(native.rows)})

    def as_dict(self) -> dict[str, Any]:
        """All fields by name, those of ``rows`` as a dict of their own."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PromptStats:
    """A reading of one prompt's tree."""

    num_sequences: int
    num_tokens: int
    num_run_ahead_tokens: int
    num_run_ahead_tokens_used: int
    num_run_ahead_sequences: int
    min_policy_version: int
    """0 without sequences."""
    max_policy_version: int
    memory_bytes: int
    """The tree alone, without its part of the index over all trees."""

    @classmethod
    def of(cls, native: _tree.PromptStats) -> Self:
        """The same reading as a plain value."""
        return cls(**_fields(cls, native))


def _fields(cls: type, native: object) -> dict[str, Any]:
    return {name: getattr(native, name) for name in cls.__dataclass_fields__}  # type: ignore[attr-defined]
