"""Where the answer stands in a completion. Pure."""

from __future__ import annotations

from typing import Any

from reasoning_gym.utils import extract_answer


def completion_text(completion: Any) -> str:
    """The text of a completion: itself, or what its last message says."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def tagged_answer(text: str) -> str | None:
    """What the last ``<answer>..</answer>`` holds, stripped; None without one."""
    answer: str | None = extract_answer(text)
    return answer
