"""Promise 5 as far as admission goes: policy rollouts first, run-ahead only in what is left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from srt_common.messages.rollouts import Lane
from srt_rollout.lanes import Lanes, Verdict

MAX_NUM_SEQS = 6
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["policy", "run_ahead", "leave"]), st.integers(min_value=0, max_value=15)
    ),
    max_size=60,
)


def lanes(*, reserve_slots: int = 2, max_waiting: int = 3) -> Lanes:
    return Lanes(max_num_seqs=MAX_NUM_SEQS, reserve_slots=reserve_slots, max_waiting=max_waiting)


def filled(lane: Lane, count: int, into: Lanes) -> list[Verdict]:
    return [into.enter(f"{lane}-{index}", lane) for index in range(count)]


def test_policy_is_admitted_up_to_its_slots_and_its_queue_and_then_busy() -> None:
    subject = lanes()
    assert filled("policy", 10, subject) == [Verdict.ADMITTED] * 9 + [Verdict.BUSY]
    assert (subject.num_running_policy, subject.num_waiting_policy) == (6, 3)


def test_run_ahead_never_takes_the_reserve() -> None:
    subject = lanes()
    assert filled("run_ahead", 6, subject) == [Verdict.ADMITTED] * 4 + [Verdict.BUSY] * 2


def test_no_run_ahead_enters_while_policy_requests_wait() -> None:
    subject = lanes(reserve_slots=0)
    filled("policy", 7, subject)
    assert subject.enter("late", "run_ahead") is Verdict.BUSY


def test_the_youngest_run_ahead_leaves_first_and_is_named_once() -> None:
    subject = lanes()
    filled("run_ahead", 4, subject)
    subject.enter("a", "policy")
    assert subject.evict() == ["run_ahead-3"]
    assert subject.evict() == []
    subject.enter("b", "policy")
    assert subject.evict() == ["run_ahead-2"]


def test_run_ahead_that_is_leaving_still_counts_for_those_who_want_in() -> None:
    subject = lanes()
    filled("run_ahead", 4, subject)
    subject.enter("a", "policy")
    subject.evict()
    subject.leave("a")
    assert subject.enter("next", "run_ahead") is Verdict.BUSY
    subject.leave("run_ahead-3")
    assert subject.enter("next", "run_ahead") is Verdict.ADMITTED


def test_an_id_in_flight_is_a_duplicate_in_either_lane_until_it_leaves() -> None:
    subject = lanes()
    subject.enter("same", "run_ahead")
    assert subject.enter("same", "policy") is Verdict.DUPLICATE
    subject.leave("same")
    assert subject.enter("same", "policy") is Verdict.ADMITTED


def test_closed_to_run_ahead_means_none_enters_and_all_leave() -> None:
    subject = lanes()
    filled("run_ahead", 3, subject)
    subject.is_run_ahead_open = False
    assert subject.evict_all() == ["run_ahead-2", "run_ahead-1", "run_ahead-0"]
    assert subject.enter("late", "run_ahead") is Verdict.BUSY
    assert subject.enter("real", "policy") is Verdict.ADMITTED


@given(events=EVENTS, reserve_slots=st.integers(min_value=0, max_value=MAX_NUM_SEQS - 1))
def test_after_each_event_run_ahead_stays_only_below_the_reserve(
    events: list[tuple[str, int]], reserve_slots: int
) -> None:
    subject = lanes(reserve_slots=reserve_slots)
    policy: set[str] = set()
    staying: list[str] = []
    for kind, number in events:
        name = str(number)
        if kind == "leave":
            subject.leave(name)
            policy.discard(name)
            staying = [other for other in staying if other != name]
        elif subject.enter(name, "policy" if kind == "policy" else "run_ahead") is Verdict.ADMITTED:
            if kind == "policy":
                policy.add(name)
            else:
                staying.append(name)
                assert len(policy) + len(staying) <= MAX_NUM_SEQS - reserve_slots
        evicted = subject.evict()
        assert evicted == staying[::-1][: len(evicted)], "youngest first"
        staying = staying[: len(staying) - len(evicted)]
        assert not staying or len(policy) + len(staying) <= MAX_NUM_SEQS - reserve_slots
        assert subject.num_running_policy + subject.num_waiting_policy == len(policy)
        assert sorted(subject.policy_requests()) == sorted(policy)


@given(events=EVENTS)
def test_run_ahead_never_keeps_a_policy_request_out(events: list[tuple[str, int]]) -> None:
    alone, shared = lanes(), lanes()
    for kind, number in events:
        name = f"{kind}-{number}"
        if kind == "policy":
            assert shared.enter(name, "policy") is alone.enter(name, "policy")
        elif kind == "run_ahead":
            shared.enter(name, "run_ahead")
            shared.evict()
        else:
            for lane in ("policy", "run_ahead"):
                alone.leave(f"{lane}-{number}")
                shared.leave(f"{lane}-{number}")
