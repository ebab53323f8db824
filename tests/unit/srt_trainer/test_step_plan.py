"""Step plans: every rollout has a name of its own, and the window shows what will be sampled."""

from __future__ import annotations

from dataclasses import replace

from srt_common.keys import prompt_key
from srt_trainer.datasets import Prompt
from srt_trainer.rollout_client import SamplingPlan
from srt_trainer.settings import AlgorithmSettings
from srt_trainer.step_plan import PromptKeys, StepPlanner, evaluation_tasks

KEYS = PromptKeys(secret=b"secret", fingerprint=b"tokenizer")
PROMPTS = [Prompt(index, "", (index, 99), {}) for index in range(5)]
PLANNER = StepPlanner(
    job="tiny",
    algorithm=AlgorithmSettings(steps=4, prompts_per_step=2, rollouts_per_prompt=3),
    prompts=PROMPTS,
    keys=KEYS,
    sampling=SamplingPlan(
        max_tokens=24,
        temperature=0.8,
        top_p=0.9,
        top_k=5,
        stop_token_ids=(1,),
        timeout_seconds=1.0,
        timeout_seconds_per_token=0.0,
        max_attempts=1,
    ),
    look_ahead_steps=2,
)


def test_a_step_lays_its_groups_one_after_another() -> None:
    tasks = PLANNER.tasks(1)
    assert [task.group_id for task in tasks] == ["tiny/1/0"] * 3 + ["tiny/1/1"] * 3
    assert len({task.prompt.index for task in tasks[:3]}) == 1
    assert tasks[0].key == prompt_key(b"secret", b"tokenizer", token_ids=tasks[0].prompt.token_ids)
    assert tasks == PLANNER.tasks(1)


def test_no_two_rollouts_of_a_job_share_an_id() -> None:
    tasks = [task for step in range(4) for task in PLANNER.tasks(step)]
    for step in (0, 2):
        tasks += evaluation_tasks("tiny", step, PROMPTS, KEYS, num_samples=12)
    assert len({task.rollout_id for task in tasks}) == len(tasks)


def test_the_window_is_what_the_next_steps_will_sample() -> None:
    window = PLANNER.window(1)
    assert window is not None
    expected = [(step, task) for step in (1, 2, 3) for task in PLANNER.tasks(step)[::3]]
    assert [(prompt.step, prompt.prompt_key) for prompt in window.prompts] == [
        (step, task.key) for step, task in expected
    ]
    assert list(window.token_ids) == [task.prompt.token_ids for _, task in expected]
    first = window.prompts[0]
    assert (first.num_rollouts, first.max_tokens) == (3, 24)
    assert (first.temperature, first.top_p, first.top_k) == (0.8, 0.9, 5)
    assert first.stop_token_ids == (1,)


def test_the_window_ends_with_the_job_and_may_be_off() -> None:
    window = PLANNER.window(3)
    assert window is not None
    assert {prompt.step for prompt in window.prompts} == {3}
    assert replace(PLANNER, look_ahead_steps=None).window(0) is None


def test_an_evaluation_takes_its_prompts_in_turn() -> None:
    tasks = evaluation_tasks("tiny", 6, PROMPTS, KEYS, num_samples=7)
    assert [task.prompt.index for task in tasks] == [0, 1, 2, 3, 4, 0, 1]
    assert tasks[0].group_id == tasks[5].group_id == "tiny/eval/6/0"
