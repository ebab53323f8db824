"""One prompt, one response."""

from __future__ import annotations

from srt_trainer.datasets import Prompt
from srt_trainer.environments.base import Sample
from srt_trainer.rollouts import Generation


class SingleTurn:
    """The policy answers once; nothing answers back."""

    async def roll_out(self, prompt: Prompt, sample: Sample) -> Generation:
        return await sample(prompt.token_ids)
