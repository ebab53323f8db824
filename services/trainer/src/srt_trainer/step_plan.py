"""Which rollouts a step and an evaluation consist of, and which prompts come next. Pure.

* The window begins with the current step, whose stragglers may be helped, and goes on with the
  steps after it.
* ``rollout_id`` names a rollout for ever: the same step of the same job asks for the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from srt_common.coordination import WindowPrompt
from srt_common.keys import PromptKey, prompt_key
from srt_trainer.announcements import Window
from srt_trainer.datasets import Prompt
from srt_trainer.prompt_order import step_prompts
from srt_trainer.rollout_client import RolloutTask, SamplingPlan
from srt_trainer.settings import AlgorithmSettings


@dataclass(frozen=True, slots=True)
class PromptKeys:
    """Names the trees of prompts as the engines do."""

    secret: bytes
    fingerprint: bytes

    def of(self, prompt: Prompt) -> PromptKey:
        return prompt_key(self.secret, self.fingerprint, token_ids=prompt.token_ids)


@dataclass(frozen=True, slots=True)
class StepPlanner:
    """The job's steps, as far ahead as one likes to look."""

    job: str
    algorithm: AlgorithmSettings
    prompts: Sequence[Prompt]
    keys: PromptKeys
    sampling: SamplingPlan
    look_ahead_steps: int | None
    """None: nobody looks ahead, so there is no window."""

    def tasks(self, step: int) -> list[RolloutTask]:
        """The rollouts of a step, group after group."""
        return [
            RolloutTask(
                rollout_id=f"{self.job}/{step}/{group}/{sample}",
                group_id=f"{self.job}/{step}/{group}",
                prompt=prompt,
                key=self.keys.of(prompt),
            )
            for group, prompt in enumerate(self._prompts(step))
            for sample in range(self.algorithm.rollouts_per_prompt)
        ]

    def window(self, step: int) -> Window | None:
        """The prompts of a step and of the ``look_ahead_steps`` after it, as far as the job
        goes.
        """
        if self.look_ahead_steps is None:
            return None
        end = min(step + 1 + self.look_ahead_steps, self.algorithm.steps)
        ahead = [(later, prompt) for later in range(step, end) for prompt in self._prompts(later)]
        return Window(
            [self._window_prompt(later, prompt) for later, prompt in ahead],
            [prompt.token_ids for _, prompt in ahead],
        )

    def _prompts(self, step: int) -> list[Prompt]:
        indices = step_prompts(
            step,
            prompts_per_step=self.algorithm.prompts_per_step,
            num_prompts=len(self.prompts),
            seed=self.algorithm.seed,
        )
        return [self.prompts[index] for index in indices]

    def _window_prompt(self, step: int, prompt: Prompt) -> WindowPrompt:
        return WindowPrompt(
            prompt_key=self.keys.of(prompt),
            step=step,
            num_rollouts=self.algorithm.rollouts_per_prompt,
            max_tokens=self.sampling.max_tokens,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            top_k=self.sampling.top_k,
            stop_token_ids=self.sampling.stop_token_ids,
        )


def evaluation_tasks(
    job: str, step: int, prompts: Sequence[Prompt], keys: PromptKeys, *, num_samples: int
) -> list[RolloutTask]:
    """The rollouts of an evaluation after ``step`` steps: prompts in turn, round after round."""
    rows = [(sample, prompts[sample % len(prompts)]) for sample in range(num_samples)]
    return [
        RolloutTask(
            rollout_id=f"{job}/eval/{step}/{sample}",
            group_id=f"{job}/eval/{step}/{prompt.index}",
            prompt=prompt,
            key=keys.of(prompt),
        )
        for sample, prompt in rows
    ]
