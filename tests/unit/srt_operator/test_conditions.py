"""Conditions are merged as Kubernetes does it: transition times move with the status alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from srt_operator.conditions import MAX_MESSAGE_CHARACTERS, Finding, is_true, merge, rfc3339
from srt_operator.constants import ConditionType, Reason
from srt_operator.status import Condition

READY = Finding(ConditionType.READY, True, Reason.ALL_READY)
NOT_READY = Finding(ConditionType.READY, False, Reason.STARTING, "not ready: server")


def ready(conditions: tuple[Condition, ...]) -> Condition:
    [found] = [c for c in conditions if c.type is ConditionType.READY]
    return found


def test_a_first_finding_dates_from_now() -> None:
    [condition] = merge((), [READY], now=0, generation=4)
    assert condition.last_transition_time == "1970-01-01T00:00:00Z"
    assert (condition.status, condition.observed_generation) == ("True", 4)


def test_the_same_status_keeps_its_time_but_not_its_message() -> None:
    before = merge((), [NOT_READY], now=10, generation=1)
    other = Finding(ConditionType.READY, False, Reason.RESTARTING, "not ready: trainer")
    after = ready(merge(before, [other], now=20, generation=2))
    assert after.last_transition_time == rfc3339(10)
    assert (after.message, after.reason, after.observed_generation) == (
        "not ready: trainer",
        Reason.RESTARTING,
        2,
    )


def test_another_status_dates_from_now() -> None:
    before = merge((), [NOT_READY], now=10, generation=1)
    assert ready(merge(before, [READY], now=20, generation=1)).last_transition_time == rfc3339(20)


def test_a_long_message_is_cut_to_what_the_api_allows() -> None:
    long = Finding(ConditionType.FAILED, True, Reason.DEADLINE_EXCEEDED, "x" * 5000)
    [condition] = merge((), [long], now=0, generation=1)
    assert len(condition.message) == MAX_MESSAGE_CHARACTERS


def test_a_condition_holds_only_when_it_is_there_and_true() -> None:
    assert not is_true((), ConditionType.READY)
    assert not is_true(merge((), [NOT_READY], now=0, generation=1), ConditionType.READY)
    assert is_true(merge((), [READY], now=0, generation=1), ConditionType.READY)


@given(
    st.lists(
        st.builds(Finding, st.sampled_from(ConditionType), st.booleans(), st.sampled_from(Reason)),
        max_size=20,
    )
)
def test_a_type_appears_once_however_often_it_is_found(findings: list[Finding]) -> None:
    conditions: tuple[Condition, ...] = ()
    for now, finding in enumerate(findings):
        conditions = merge(conditions, [finding], now=now, generation=1)
    kinds = [condition.type for condition in conditions]
    assert len(kinds) == len(set(kinds))
    assert merge(conditions, findings[-1:], now=99, generation=1) == conditions
