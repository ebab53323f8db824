"""The score a reasoning-gym task gives to the answer in a completion. Pure."""

from __future__ import annotations

from typing import Any

from srt_trainer.datasets import Scorer
from srt_trainer.rewards.answers import completion_text, tagged_answer


class TaskScore:
    """Reward function around a task's own scorer; a completion without answer tags scores 0."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def __call__(
        self, *, prompts: list[Any], completions: list[Any], **columns: list[Any]
    ) -> list[float | None]:
        rewards: list[float | None] = []
        for row, completion in enumerate(completions):
            answer = tagged_answer(completion_text(completion))
            entry = {name: columns[name][row] for name in ("answer", "metadata")}
            entry["question"] = prompts[row]
            rewards.append(0.0 if answer is None else float(self._scorer(answer, entry)))
        return rewards
