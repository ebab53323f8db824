"""Reward functions: TRL's signature, found by name, checked where they are called.

* ``function(prompts, completions, **columns) -> list[float | None]``, one reward per completion;
  the
  columns are the data set's, one value per completion, and ``completion_ids``.
* None means that a completion cannot be scored; it then teaches nothing.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

from srt_common.errors import ConfigurationError
from srt_trainer.datasets import Messages, Prompt, Table, Tokenizer
from srt_trainer.rewards.exact_match import exact_match
from srt_trainer.rewards.reasoning_gym import TaskScore
from srt_trainer.rollouts import Rollout

RewardFunction: TypeAlias = Callable[..., Sequence[float | None]]
"""What TRL calls a custom reward function."""


def find_reward(name: str, table: Table) -> RewardFunction:
    """The reward function a job names.

    Args:
        name: ``exact-match``, ``reasoning-gym`` or ``package.module:function``.
        table: the data set to be scored; brings the scorer of ``reasoning-gym``.

    Raises:
        ConfigurationError: there is no such function, or the data set has no scorer.
    """
    if name == "exact-match":
        return exact_match
    if name == "reasoning-gym":
        if table.scorer is None:
            raise _refusal(name, f"{table.uri} is not a reasoning-gym:// task")
        return TaskScore(table.scorer)
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise _refusal(name, str(error)) from error
    if not callable(function):
        raise _refusal(name, f"{attribute} is not a function")
    return cast(RewardFunction, function)


def score(
    function: RewardFunction,
    rollouts: Sequence[Rollout],
    prompts: Sequence[Prompt],
    tokenizer: Tokenizer,
) -> list[float | None]:
    """Score rollouts.

    Args:
        function: the reward.
        rollouts: [N].
        prompts: the whole data set; rollouts say which row they belong to.
        tokenizer: turns tokens into text, special tokens left out.

    Raises:
        ValueError: the function did not return one number or None per rollout.
    """
    rows = [prompts[rollout.prompt_index] for rollout in rollouts]
    token_ids = [rollout.token_array().tolist() for rollout in rollouts]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in token_ids]
    completions = [_like(row.content, text) for row, text in zip(rows, texts, strict=True)]
    columns = {name: [row.columns.get(name) for row in rows] for name in rows[0].columns}
    columns["completion_ids"] = token_ids
    rewards = function(prompts=[row.content for row in rows], completions=completions, **columns)
    if len(rewards) != len(rollouts):
        raise ValueError(
            f"the reward function returned {len(rewards)} rewards; {len(rollouts)} are needed"
        )
    return [_number(reward) for reward in rewards]


def _like(content: str | Messages, text: str) -> str | Messages:
    """A completion in the form of its prompt: text, or a conversation's next message."""
    return text if isinstance(content, str) else [{"role": "assistant", "content": text}]


def _number(reward: float | None) -> float | None:
    if reward is None or math.isnan(reward):
        return None
    if math.isinf(reward):
        raise ValueError(f"the reward function returned {reward}; rewards must be finite")
    return float(reward)


def _refusal(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(faults=[f"reward {name!r} cannot be used: {reason}"])
