"""The order of prompts: known for every step to come, each prompt once an epoch."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from srt_trainer.prompt_order import step_prompts


@given(
    num_prompts=st.integers(1, 20),
    prompts_per_step=st.integers(1, 7),
    seed=st.integers(0, 5),
    epochs=st.integers(1, 3),
)
def test_after_whole_epochs_every_prompt_was_sampled_equally_often(
    num_prompts: int, prompts_per_step: int, seed: int, epochs: int
) -> None:
    num_steps = num_prompts * epochs
    served = [
        index
        for step in range(num_steps)
        for index in step_prompts(
            step, prompts_per_step=prompts_per_step, num_prompts=num_prompts, seed=seed
        )
    ]
    assert len(served) == num_steps * prompts_per_step
    counts = Counter(served)
    assert counts == {index: epochs * prompts_per_step for index in range(num_prompts)}
    for start in range(0, len(served), num_prompts):
        assert sorted(served[start : start + num_prompts]) == list(range(num_prompts))


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    def epoch(step: int, seed: int) -> list[int]:
        return step_prompts(step, prompts_per_step=30, num_prompts=30, seed=seed)

    assert epoch(3, seed=1) == epoch(3, seed=1)
    assert epoch(3, seed=1) != epoch(3, seed=2)
    assert epoch(3, seed=1) != epoch(4, seed=1)


def test_the_order_is_the_same_in_every_release() -> None:
    """A job that is resumed under another version must go on with the same prompts."""
    assert step_prompts(1, prompts_per_step=4, num_prompts=5, seed=7) == GOLDEN


GOLDEN = [0, 2, 1, 3]
