"""Rewards: the built-in ones, TRL's signature for anyone's, and what a wrong one gets."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from srt_common.errors import ConfigurationError
from srt_trainer.datasets import Prompt, Table
from srt_trainer.environments.single_turn import SingleTurn
from srt_trainer.rewards.base import find_reward, score
from srt_trainer.rollouts import Generation, Rollout, finished_rollout
from support.tiny_model import EOS, make_tiny_tokenizer

TOKENIZER = make_tiny_tokenizer()
CHAT = [{"role": "user", "content": "2 + 3?"}]
PROMPTS = [
    Prompt(0, "1 + 1?", (1, 2), {"answer": "2", "level": 1}),
    Prompt(1, "2 + 3?", (1, 2), {"answer": "5", "level": 2}),
]
TABLE = Table("file:///rows.jsonl", [], "prompt", "answer")


def completed(prompt_index: int, text: str) -> Rollout:
    token_ids = [*TOKENIZER.encode(text), TOKENIZER.eos_token_id]
    return finished_rollout(
        Generation(token_ids=token_ids, log_probs=[0.0] * len(token_ids), finish_reason="stop"),
        rollout_id="tiny/0/0/0",
        prompt_index=prompt_index,
        prompt_token_ids=[1, 2],
    )


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], str]:
    """Make a function importable as ``my_rewards:reward``."""

    def define_reward(function: object) -> str:
        module = types.ModuleType("my_rewards")
        module.reward = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "my_rewards", module)
        return "my_rewards:reward"

    return define_reward


def test_exact_match_compares_the_last_tagged_answer_or_else_the_whole_text() -> None:
    rollouts = [
        completed(0, "<answer>3</answer> no: <answer> 2 </answer>"),
        completed(0, " 2 "),
        completed(0, "it is 2"),
        completed(1, "<answer>2</answer>"),
    ]
    reward = find_reward("exact-match", TABLE)
    assert score(reward, rollouts, PROMPTS, TOKENIZER) == [1.0, 1.0, 0.0, 0.0]


def test_exact_match_reads_the_last_message_of_a_conversation() -> None:
    prompts = [Prompt(0, CHAT, (1,), {"answer": "5"})]
    reward = find_reward("exact-match", TABLE)
    assert score(reward, [completed(0, "5")], prompts, TOKENIZER) == [1.0]


def test_a_task_scores_the_tagged_answer_with_its_row_and_nothing_else() -> None:
    calls: list[tuple[str | None, dict[str, Any]]] = []

    def scorer(answer: str | None, entry: dict[str, Any]) -> float:
        calls.append((answer, entry))
        return 0.5

    table = Table("reasoning-gym://x", [], "question", "answer", scorer)
    prompts = [Prompt(0, "q?", (1,), {"answer": "7", "metadata": {"n": 1}})]
    rollouts = [completed(0, "<answer>8</answer>"), completed(0, "8")]
    assert score(find_reward("reasoning-gym", table), rollouts, prompts, TOKENIZER) == [0.5, 0.0]
    assert calls == [("8", {"question": "q?", "answer": "7", "metadata": {"n": 1}})]


def test_a_custom_function_gets_what_trl_gives_it(define: Callable[[object], str]) -> None:
    seen: dict[str, Any] = {}

    def reward(
        prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float | None]:
        seen.update(columns, prompts=prompts, completions=completions)
        return [1, None]

    function = find_reward(define(reward), TABLE)
    rollouts = [completed(1, "five"), completed(0, "two")]
    assert score(function, rollouts, PROMPTS, TOKENIZER) == [1.0, None]
    assert seen["prompts"] == ["2 + 3?", "1 + 1?"]
    assert seen["completions"] == ["five", "two"]
    assert seen["answer"] == ["5", "2"]
    assert seen["level"] == [2, 1]
    assert seen["completion_ids"][1] == [*TOKENIZER.encode("two"), TOKENIZER.eos_token_id]
    assert EOS not in seen["completions"][0]


def test_a_conversation_is_completed_by_a_message(define: Callable[[object], str]) -> None:
    seen: list[Any] = []

    def reward(completions: list[Any], **_: Any) -> list[float]:
        seen.extend(completions)
        return [float("nan")]

    function = find_reward(define(reward), TABLE)
    prompts = [Prompt(0, CHAT, (1,), {"answer": "5"})]
    assert score(function, [completed(0, "5")], prompts, TOKENIZER) == [None]
    assert seen == [[{"role": "assistant", "content": "5"}]]


@pytest.mark.parametrize(
    ("rewards", "message"),
    [([1.0, 1.0], "returned 2 rewards; 1 are needed"), ([float("inf")], "must be finite")],
)
def test_a_wrong_answer_of_a_function_is_refused(
    define: Callable[[object], str], rewards: list[float], message: str
) -> None:
    function = find_reward(define(lambda **_: rewards), TABLE)
    with pytest.raises(ValueError, match=message):
        score(function, [completed(0, "2")], PROMPTS, TOKENIZER)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent_module:reward", "No module named 'absent_module'"),
        ("math:absent", "has no attribute 'absent'"),
        ("math:pi", "pi is not a function"),
        ("reasoning-gym", "file:///rows.jsonl is not a reasoning-gym:// task"),
    ],
)
def test_a_reward_that_does_not_exist_is_refused(name: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_reward(name, TABLE)
    (fault,) = caught.value.faults
    assert fault.startswith(f"reward {name!r} cannot be used: ")
    assert reason in fault


async def test_a_single_turn_is_one_response_to_the_prompt() -> None:
    generation = Generation(token_ids=[3], log_probs=[-1.0], finish_reason="stop")
    contexts = []

    async def sample(token_ids: Any) -> Generation:
        contexts.append(token_ids)
        return generation

    assert await SingleTurn().roll_out(PROMPTS[0], sample) is generation
    assert contexts == [(1, 2)]
