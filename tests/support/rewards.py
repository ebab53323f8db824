"""Rewards that random text can earn, importable by name."""

from __future__ import annotations

from typing import Any


def digits(completions: list[str], **_: Any) -> list[float]:
    """The share of digits in a completion."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]


def broken(completions: list[str], **_: Any) -> list[float]:
    """Fails, and quotes a completion where it does."""
    raise ValueError(f"cannot score SECRET {completions[0]}")
