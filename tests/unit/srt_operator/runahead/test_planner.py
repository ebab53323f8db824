"""The planner: next steps first, least covered first, begun samples first; nothing twice, nobody
above its limit.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from srt_common.coordination import WindowPrompt
from srt_operator.runahead.planner import (
    MAX_GROUPS_A_VERSION,
    QUEUE_FACTOR,
    WELL_COVERED_GROUPS,
    Demand,
    Room,
    Sample,
    plan_chunks,
)

ROOM = Room("rollout-0", num_free_slots=2, num_in_flight=0)


def key(number: int) -> bytes:
    return bytes([number]) * 16


def prompt(number: int, step: int, *, num_rollouts: int = 4, max_tokens: int = 100) -> WindowPrompt:
    return WindowPrompt(key(number), step, num_rollouts, max_tokens)


def sample(number: int, index: int = 0, **fields: object) -> Sample:
    values: dict[str, object] = {
        "prompt_key": key(number),
        "policy_version": 7,
        "index": index,
        "engine": "rollout-0",
        "num_chunks": 1,
        "num_tokens": 30,
        "is_in_flight": False,
        "is_finished": False,
    }
    return Sample(**(values | fields))  # type: ignore[arg-type]


def demand(*window: WindowPrompt, **fields: object) -> Demand:
    values: dict[str, object] = {
        "next_step": 5,
        "policy_version": 7,
        "window": window,
        "num_sequences": {},
        "samples": (),
        "chunk_tokens": 32,
        "num_tokens_left": None,
    }
    return Demand(**(values | fields))  # type: ignore[arg-type]


def wanted(*rooms: Room, what: Demand) -> list[tuple[int, int, int]]:
    """Prompt number, sample and chunk index of each chunk, in order."""
    return [(c.prompt_key[0], c.sample, c.index) for c in plan_chunks(rooms, what)]


def test_twice_the_free_slots_are_filled() -> None:
    assert len(wanted(ROOM, what=demand(prompt(1, 5)))) == QUEUE_FACTOR * 2
    busy = Room("rollout-0", num_free_slots=2, num_in_flight=3)
    assert len(wanted(busy, what=demand(prompt(1, 5)))) == 1
    full = Room("rollout-0", num_free_slots=2, num_in_flight=9)
    assert wanted(full, what=demand(prompt(1, 5))) == []


def test_the_nearest_step_comes_first() -> None:
    what = demand(prompt(2, 6, num_rollouts=1), prompt(1, 5, num_rollouts=1))
    assert [number for number, *_ in wanted(ROOM, what=what)] == [1, 1, 2, 2]


def test_stragglers_come_after_the_next_steps_and_only_while_they_run() -> None:
    window = (prompt(1, 4, num_rollouts=1), prompt(2, 5, num_rollouts=1))
    assert [n for n, *_ in wanted(ROOM, what=demand(*window))] == [2, 2]
    straggling = demand(*window, straggling_step=4)
    assert [n for n, *_ in wanted(ROOM, what=straggling)] == [2, 2, 1, 1]


def test_the_least_covered_prompt_comes_first() -> None:
    what = demand(prompt(1, 5), prompt(2, 5), num_sequences={key(1): 2})
    assert [number for number, *_ in wanted(ROOM, what=what)] == [2, 2, 1, 2]


def test_what_is_well_covered_is_left_alone() -> None:
    covered = {key(1): WELL_COVERED_GROUPS * 4}
    assert wanted(ROOM, what=demand(prompt(1, 5), num_sequences=covered)) == []
    almost = {key(1): WELL_COVERED_GROUPS * 4 - 1}
    assert len(wanted(ROOM, what=demand(prompt(1, 5), num_sequences=almost))) == 1


def test_a_prompt_has_its_share_at_each_policy_version() -> None:
    roomy = Room("rollout-0", num_free_slots=50, num_in_flight=0)
    what = demand(prompt(1, 5, num_rollouts=3))
    assert len(wanted(roomy, what=what)) == MAX_GROUPS_A_VERSION * 3


def test_begun_samples_go_on_before_new_ones_begin() -> None:
    what = demand(prompt(1, 5), prompt(2, 5), samples=[sample(2, index=0, num_chunks=3)])
    assert wanted(ROOM, what=what)[0] == (2, 0, 3)


def test_a_sample_in_flight_or_finished_or_of_other_weights_is_not_continued() -> None:
    samples = [
        sample(1, 0, is_in_flight=True),
        sample(1, 1, is_finished=True),
        sample(1, 2, policy_version=6),
        sample(1, 3, num_tokens=100),
    ]
    found = wanted(ROOM, what=demand(prompt(1, 5), samples=samples))
    assert {index for _, index, chunk in found if chunk == 0} == {4, 5, 6, 7}
    assert all(chunk == 0 for *_, chunk in found)


def test_a_sample_goes_on_where_its_cache_is_unless_there_is_no_room() -> None:
    rooms = (Room("rollout-0", 4, 0), Room("rollout-1", 1, 0))
    what = demand(prompt(1, 5), samples=[sample(1, engine="rollout-1")])
    assert plan_chunks(rooms, what)[0].engine == "rollout-1"
    rooms = (Room("rollout-0", 4, 0), Room("rollout-1", 1, 2))
    assert plan_chunks(rooms, what)[0].engine == "rollout-0"


def test_a_chunk_asks_for_no_more_than_the_sample_may_have() -> None:
    what = demand(prompt(1, 5, max_tokens=40), samples=[sample(1, num_tokens=30)])
    assert plan_chunks([ROOM], what)[0].max_tokens == 10
    short = demand(prompt(1, 5, max_tokens=20))
    assert plan_chunks([ROOM], short)[0].max_tokens == 20


def test_a_step_asks_for_no_more_tokens_than_allowed() -> None:
    chunks = plan_chunks([ROOM], demand(prompt(1, 5), num_tokens_left=70))
    assert [chunk.max_tokens for chunk in chunks] == [32, 32, 6]
    assert plan_chunks([ROOM], demand(prompt(1, 5), num_tokens_left=0)) == []


def test_a_prompt_that_returns_in_the_window_counts_for_its_nearest_step() -> None:
    roomy = Room("rollout-0", 50, 0)
    what = demand(prompt(1, 6, num_rollouts=2), prompt(1, 5, num_rollouts=2))
    assert len(wanted(roomy, what=what)) == MAX_GROUPS_A_VERSION * 2


rooms_strategy = st.lists(
    st.builds(
        Room,
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 6),
        st.integers(0, 14),
    ),
    max_size=3,
    unique_by=lambda room: room.engine,
)
prompts_strategy = st.lists(
    st.builds(
        prompt,
        st.integers(1, 5),
        st.integers(2, 8),
        num_rollouts=st.integers(1, 4),
        max_tokens=st.integers(1, 80),
    ),
    max_size=8,
)
samples_strategy = st.lists(
    st.builds(
        sample,
        st.integers(1, 6),
        st.integers(0, 3),
        policy_version=st.integers(6, 7),
        num_chunks=st.integers(0, 3),
        num_tokens=st.integers(0, 90),
        is_in_flight=st.booleans(),
        is_finished=st.booleans(),
        engine=st.sampled_from(["a", "b", ""]),
    ),
    max_size=10,
    unique_by=lambda s: (s.prompt_key, s.index),
)


@given(
    rooms_strategy,
    prompts_strategy,
    samples_strategy,
    st.dictionaries(st.integers(1, 5).map(key), st.integers(0, 20)),
    st.none() | st.integers(0, 200),
)
def test_a_plan_conserves(
    rooms: list[Room],
    window: list[WindowPrompt],
    samples: list[Sample],
    num_sequences: dict[bytes, int],
    num_tokens_left: int | None,
) -> None:
    what = demand(
        *window,
        samples=samples,
        num_sequences=num_sequences,
        num_tokens_left=num_tokens_left,
        straggling_step=4,
    )
    chunks = plan_chunks(rooms, what)
    names = [(chunk.prompt_key, chunk.sample) for chunk in chunks]
    assert len(names) == len(set(names))
    busy = {(s.prompt_key, s.index) for s in samples if s.is_in_flight and s.policy_version == 7}
    assert not busy & set(names)
    for engine, count in Counter(chunk.engine for chunk in chunks).items():
        [room] = [room for room in rooms if room.engine == engine]
        assert count <= max(0, QUEUE_FACTOR * room.num_free_slots - room.num_in_flight)
    assert {chunk.prompt_key for chunk in chunks} <= {
        p.prompt_key for p in window if p.step >= 5 or p.step == 4
    }
    assert all(1 <= chunk.max_tokens <= 32 for chunk in chunks)
    if num_tokens_left is not None:
        assert sum(chunk.max_tokens for chunk in chunks) <= num_tokens_left
