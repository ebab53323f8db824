"""Accuracy of the current policy on prompts it does not learn from.

* Sampled by the engines like any rollout, in the policy lane; scored like any rollout; never learnt
  from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from srt_common.clock import Clock
from srt_trainer.datasets import Prompt, Tokenizer
from srt_trainer.report_lines import Line, eval_line
from srt_trainer.rewards.base import RewardFunction, score
from srt_trainer.rollout_client import RolloutClient
from srt_trainer.settings import EvaluationSettings
from srt_trainer.step_plan import PromptKeys, evaluation_tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """A held-out data set with its reward."""

    settings: EvaluationSettings
    job: str
    prompts: Sequence[Prompt]
    keys: PromptKeys
    reward: RewardFunction
    tokenizer: Tokenizer
    clock: Clock

    def is_due(self, step: int, *, last_step: int) -> bool:
        """Whether to evaluate after ``step`` finished steps."""
        return step % self.settings.every_steps == 0 or step == last_step

    async def evaluate(self, client: RolloutClient, step: int) -> Line:
        """Sample and score; ``policy_version`` is ``step``."""
        started = self.clock.monotonic()
        tasks = evaluation_tasks(
            self.job, step, self.prompts, self.keys, num_samples=self.settings.samples
        )
        rollouts = await client.sample(tasks, policy_version=step)
        rewards = await asyncio.to_thread(
            score, self.reward, rollouts, self.prompts, self.tokenizer
        )
        return eval_line(step, rollouts, rewards, seconds=self.clock.monotonic() - started)
