"""Eviction chooses least recently used prompts, just enough of them, and never what is in use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_common.keys import PromptKey
from srt_tree_cache.eviction import HeldPrompt, excess_bytes, prompts_to_evict


def held(number: int, memory_bytes: int, appended_at: float = 0.0) -> HeldPrompt:
    return HeldPrompt(PromptKey(number.to_bytes(16, "big")), memory_bytes, appended_at)


def evicted(prompts: list[HeldPrompt], free_bytes: int, protect_after: float = 10.0) -> list[int]:
    keys = prompts_to_evict(prompts, free_bytes=free_bytes, protect_after=protect_after)
    return [int.from_bytes(key, "big") for key in keys]


@pytest.mark.parametrize(
    ("memory_bytes", "excess"), [(0, 0), (999, 0), (1000, 0), (1001, 101), (2000, 1100)]
)
def test_nothing_is_in_excess_up_to_the_limit_and_all_above_the_target_beyond_it(
    memory_bytes: int, excess: int
) -> None:
    assert excess_bytes(memory_bytes, limit_bytes=1000, to_fraction=0.9) == excess


def test_the_least_recently_used_go_first_and_no_more_than_needed() -> None:
    prompts = [held(number, 100) for number in range(5)]
    assert evicted(prompts, 0) == []
    assert evicted(prompts, 1) == [0]
    assert evicted(prompts, 100) == [0]
    assert evicted(prompts, 101) == [0, 1]


def test_what_gained_tokens_a_moment_ago_stays_whatever_the_excess() -> None:
    prompts = [held(0, 100, 10.1), held(1, 100, 10.0), held(2, 100, 11.0), held(3, 100, 1.0)]
    assert evicted(prompts, 10**9) == [1, 3]


PROMPTS = st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 20)), max_size=20)


@given(PROMPTS, st.integers(-10, 5000))
def test_the_choice_is_the_shortest_run_that_frees_enough(
    sizes: list[tuple[int, float]], free_bytes: int
) -> None:
    prompts = [held(number, size, at) for number, (size, at) in enumerate(sizes)]
    may_go = [number for number, prompt in enumerate(prompts) if prompt.appended_at <= 10.0]
    chosen = evicted(prompts, free_bytes)
    assert chosen == may_go[: len(chosen)]
    freed = [prompts[number].memory_bytes for number in chosen]
    assert sum(freed[:-1]) < max(free_bytes, 1)
    if len(chosen) < len(may_go):
        assert sum(freed) >= free_bytes
