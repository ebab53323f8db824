"""1 for a completion that gives exactly the data set's answer, else 0. Pure."""

from __future__ import annotations

from typing import Any

from srt_trainer.rewards.answers import completion_text, tagged_answer


def exact_match(
    *,
    prompts: list[Any],  # noqa: ARG001
    completions: list[Any],
    answer: list[Any],
    **columns: list[Any],  # noqa: ARG001
) -> list[float | None]:
    """Compare the text in the last ``<answer>`` tags, or without tags all of it, ends stripped."""
    texts = [completion_text(completion) for completion in completions]
    found = [text if (inner := tagged_answer(text)) is None else inner for text in texts]
    return [
        1.0 if given.strip() == str(expected).strip() else 0.0
        for given, expected in zip(found, answer, strict=True)
    ]
