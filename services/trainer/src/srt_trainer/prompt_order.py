"""Which prompts a step samples: a pure function of the step, so that the future is known.

* Epochs follow one another without a gap; each holds every prompt once, in an order of its own.
* Nothing is dropped: a step may end one epoch and begin the next, and then hold a prompt twice.
"""

from __future__ import annotations

import random
from functools import lru_cache


@lru_cache(maxsize=4)
def epoch_order(num_prompts: int, *, seed: int, epoch: int) -> tuple[int, ...]:
    """A permutation of 0..num_prompts-1 that depends on nothing but the arguments."""
    order = list(range(num_prompts))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return tuple(order)


def step_prompts(step: int, *, prompts_per_step: int, num_prompts: int, seed: int) -> list[int]:
    """[prompts_per_step] indices of the prompts that step ``step`` (from 0) samples, in order."""
    positions = range(step * prompts_per_step, (step + 1) * prompts_per_step)
    places = (divmod(position, num_prompts) for position in positions)
    return [epoch_order(num_prompts, seed=seed, epoch=epoch)[place] for epoch, place in places]
