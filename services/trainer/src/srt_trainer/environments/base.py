"""What happens between a prompt and a finished rollout."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from srt_trainer.datasets import Prompt
from srt_trainer.rollouts import Generation

Sample: TypeAlias = Callable[[Sequence[int]], Awaitable[Generation]]
"""Has the policy continue a context [C] of token ids; knows sampling settings and retries."""


class Environment(Protocol):
    """A task's rules. One object serves all rollouts of a job."""

    async def roll_out(self, prompt: Prompt, sample: Sample) -> Generation:
        """Play one rollout to its end."""
        ...
