"""Who samples what: balance always, affinity where it costs no balance."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from srt_common.keys import PromptKey
from srt_trainer.engine_choice import EngineSlots, favourite_engine, next_assignment

KEYS = [PromptKey(bytes([number]) * 16) for number in range(12)]


def assign_all(
    waiting: dict[PromptKey, int], in_flight: dict[str, int], max_in_flight: int
) -> list[tuple[PromptKey, str]]:
    """Assign until nothing more can be; changes both dicts."""
    assigned: list[tuple[PromptKey, str]] = []
    while True:
        keys = [key for key, count in waiting.items() if count]
        engines = [EngineSlots(name, count) for name, count in in_flight.items()]
        choice = next_assignment(
            keys, engines, num_waiting=sum(waiting.values()), max_in_flight=max_in_flight
        )
        if choice is None:
            return assigned
        key, name = choice
        waiting[key] -= 1
        in_flight[name] += 1
        assigned.append(choice)


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    busy=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    max_in_flight=st.integers(1, 8),
)
def test_no_slot_stays_free_while_a_rollout_waits_and_no_engine_is_overfull(
    counts: list[int], busy: list[int], max_in_flight: int
) -> None:
    waiting = dict(zip(KEYS, counts, strict=False))
    in_flight = {f"engine-{number}": count for number, count in enumerate(busy)}
    num_before = sum(in_flight.values()) + sum(waiting.values())
    assign_all(waiting, in_flight, max_in_flight)
    assert sum(in_flight.values()) + sum(waiting.values()) == num_before
    if any(waiting.values()):
        assert min(in_flight.values()) >= max_in_flight
    for (_name, count), before in zip(in_flight.items(), busy, strict=True):
        assert count <= max(before, max_in_flight)


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=12), num_engines=st.integers(1, 5))
def test_idle_engines_get_equal_shares_whatever_the_prompts_prefer(
    counts: list[int], num_engines: int
) -> None:
    waiting = dict(zip(KEYS, counts, strict=False))
    in_flight = {f"engine-{number}": 0 for number in range(num_engines)}
    total = sum(counts)
    assign_all(waiting, in_flight, max_in_flight=1000)
    assert sum(in_flight.values()) == total
    assert max(in_flight.values()) <= -(-total // num_engines)


def test_the_rollouts_of_a_prompt_share_an_engine_when_balance_allows() -> None:
    names = ("engine-0", "engine-1")
    first = next(key for key in KEYS if favourite_engine(key, names) == "engine-0")
    second = next(key for key in KEYS if favourite_engine(key, names) == "engine-1")
    assigned = assign_all({first: 8, second: 8}, dict.fromkeys(names, 0), max_in_flight=16)
    assert Counter(assigned) == {(first, "engine-0"): 8, (second, "engine-1"): 8}


def test_a_prompt_goes_elsewhere_when_its_favourite_is_full() -> None:
    names = ("engine-0", "engine-1")
    keys = [key for key in KEYS if favourite_engine(key, names) == "engine-0"][:2]
    assigned = assign_all(dict.fromkeys(keys, 4), dict.fromkeys(names, 0), max_in_flight=16)
    assert Counter(name for _, name in assigned) == {"engine-0": 4, "engine-1": 4}


def test_only_the_prompts_of_an_engine_that_left_move() -> None:
    before = {key: favourite_engine(key, ("a", "b", "c")) for key in KEYS}
    after = {key: favourite_engine(key, ("a", "b")) for key in KEYS}
    assert all(after[key] == name for key, name in before.items() if name != "c")
    assert len(set(before.values())) == 3


def test_nothing_is_assigned_without_rollouts_or_engines() -> None:
    engine = EngineSlots("engine-0", 0)
    assert next_assignment([], [engine], num_waiting=0, max_in_flight=1) is None
    assert next_assignment(KEYS[:1], [], num_waiting=1, max_in_flight=1) is None
