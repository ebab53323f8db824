"""What counts as a step's time, and what as idleness."""

from __future__ import annotations

from dataclasses import dataclass, field

from srt_common.governor import MeasuredStep
from srt_rollout.vllm_plugin.step_timer import StepTimer


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        raise NotImplementedError


@dataclass
class CachedRequests:
    req_ids: list[str]


@dataclass
class Schedule:
    """The part of vLLM's SchedulerOutput that the timer reads."""

    num_scheduled_tokens: dict[str, int]
    scheduled_cached_reqs: CachedRequests
    scheduled_spec_decode_tokens: dict[str, list[int]] = field(default_factory=dict)

    @property
    def total_num_scheduled_tokens(self) -> int:
        return sum(self.num_scheduled_tokens.values())


def decode(*request_ids: str, num_drafts: int = 0) -> Schedule:
    return Schedule(
        dict.fromkeys(request_ids, 1 + num_drafts),
        CachedRequests(list(request_ids)),
        {it: [7] * num_drafts for it in request_ids} if num_drafts else {},
    )


def step(timer: StepTimer, clock: FakeClock, schedule: Schedule, seconds: float) -> object:
    measured = timer.on_schedule(schedule)
    timer.on_sampled(num_rows=len(schedule.num_scheduled_tokens), num_emitted=3)
    clock.now += seconds
    return measured


def test_a_step_lasts_until_the_next_one_begins() -> None:
    clock = FakeClock()
    timer = StepTimer(clock)
    assert step(timer, clock, decode("a", "b", num_drafts=4), 0.5) is None
    assert timer.on_schedule(decode("a")) == MeasuredStep(
        num_rows=2, num_draft_tokens=8, num_prompt_tokens=0, num_emitted=3, seconds=0.5
    )


def test_prompt_tokens_are_those_that_are_neither_rows_nor_drafts() -> None:
    clock = FakeClock()
    timer = StepTimer(clock)
    mixed = decode("a", num_drafts=4)
    mixed.num_scheduled_tokens |= {"unfinished": 50}
    timer.on_schedule(mixed)
    timer.on_sampled(num_rows=1, num_emitted=2)
    measured = timer.on_schedule(decode("a"))
    assert measured is not None
    assert (measured.num_draft_tokens, measured.num_prompt_tokens) == (4, 50)


def test_time_in_which_the_engine_may_have_been_idle_is_not_counted() -> None:
    clock = FakeClock()
    timer = StepTimer(clock)
    step(timer, clock, decode("a"), 0.1)
    assert step(timer, clock, Schedule({"b": 5}, CachedRequests([])), 0.1) is None
    assert step(timer, clock, Schedule({}, CachedRequests([])), 60.0) is None
    assert step(timer, clock, decode("c"), 0.1) is None


def test_a_step_that_did_not_ask_for_drafts_is_not_measured() -> None:
    timer = StepTimer(FakeClock())
    timer.on_schedule(decode("a"))
    assert timer.on_schedule(decode("a")) is None
