"""The reconciler: order, restarts and their limit, back-off, completion, failure, suspension; and
that carrying out a plan and planning again gives nothing more to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_operator.conditions import is_true, merge
from srt_operator.constants import PROCESS_REFUSED_CONFIGURATION, ConditionType, Phase, Reason
from srt_operator.processes import (
    DEPENDS_ON,
    Component,
    Lifecycle,
    Observed,
    ProcessStatus,
    members,
)
from srt_operator.reconciler import (
    MAX_BACKOFF_SECONDS,
    READY_WITHIN_SECONDS,
    Action,
    Plan,
    Start,
    Stop,
    backoff_seconds,
    plan,
)
from srt_operator.resources import SRTJobSpec
from srt_operator.status import Condition
from support.jobs import make_job

SPEC = make_job().spec
NAMES = [member.name for member in members(SPEC)]
KINDS = {member.name: member.component for member in members(SPEC)}


@dataclass
class World:
    """Processes that do what they are told, at a clock that the test moves."""

    spec: SRTJobSpec = SPEC
    now: float = 1000.0
    processes: dict[str, ProcessStatus] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    is_deleting: bool = False
    started_at: float = 1000.0

    def plan(self) -> Plan:
        observed = Observed(self.processes, self.started_at, self.conditions, self.is_deleting)
        return plan(self.spec, observed, self.now)

    def carry_out(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if isinstance(action, Start):
                before = self.processes.get(action.member.name)
                num_starts = 1 if before is None else before.num_starts + 1
                status = ProcessStatus(Lifecycle.STARTING, num_starts, self.now)
                self.processes[action.member.name] = status
            else:
                self.become(action.name, Lifecycle.STOPPING)

    def act(self) -> Plan:
        """Plan, carry out, and keep the conditions."""
        decided = self.plan()
        self.carry_out(decided.actions)
        self.conditions = merge(self.conditions, decided.findings, now=self.now, generation=1)
        return decided

    def become(self, name: str, lifecycle: Lifecycle, exit_code: int | None = None) -> None:
        status = self.processes[name]
        self.processes[name] = replace(
            status, lifecycle=lifecycle, since=self.now, exit_code=exit_code
        )

    def run_until_training(self) -> None:
        while "trainer" not in self.processes:
            self.act()
            for name, status in list(self.processes.items()):
                if status.lifecycle is Lifecycle.STARTING:
                    self.become(name, Lifecycle.READY)
        self.act()

    def holds(self, kind: ConditionType) -> bool:
        return is_true(self.conditions, kind)

    def reason(self, kind: ConditionType) -> Reason:
        [condition] = [c for c in self.conditions if c.type is kind]
        return condition.reason


def started(decided: Plan) -> list[str]:
    return [action.member.name for action in decided.actions if isinstance(action, Start)]


def stopped(decided: Plan) -> list[str]:
    return [action.name for action in decided.actions if isinstance(action, Stop)]


def test_a_job_has_one_worker_an_engine_and_one_trainer() -> None:
    assert NAMES == [
        "server",
        "tree-cache-0",
        "rollout-0",
        "rollout-1",
        "runahead-0",
        "runahead-1",
        "trainer",
    ]


def test_stock_engines_need_neither_tree_cache_nor_run_ahead() -> None:
    spec = make_job(spec__rollout__template__drafter__enabled="false").spec
    assert [m.name for m in members(spec)] == ["server", "rollout-0", "rollout-1", "trainer"]
    spec = make_job(spec__runAhead__enabled="false").spec
    assert Component.RUN_AHEAD not in {member.component for member in members(spec)}


def test_a_given_server_is_not_started() -> None:
    world = World(spec=make_job(spec__treeCache__template__redis="{endpoint: 'redis://h:1'}").spec)
    assert started(world.act()) == ["tree-cache-0"]


def test_processes_start_when_what_they_depend_on_is_ready() -> None:
    world = World()
    assert started(world.act()) == ["server"]
    assert started(world.act()) == []
    world.become("server", Lifecycle.READY)
    assert started(world.act()) == ["tree-cache-0"]
    world.become("tree-cache-0", Lifecycle.READY)
    assert started(world.act()) == ["rollout-0", "rollout-1"]
    world.become("rollout-0", Lifecycle.READY)
    assert started(world.act()) == []
    world.become("rollout-1", Lifecycle.READY)
    assert started(world.act()) == ["runahead-0", "runahead-1", "trainer"]


def test_a_process_that_died_comes_back_after_a_pause() -> None:
    world = World()
    world.run_until_training()
    world.become("rollout-0", Lifecycle.EXITED, -9)
    decided = world.act()
    assert started(decided) == []
    assert decided.requeue_after == pytest.approx(backoff_seconds(1))
    assert world.reason(ConditionType.ROLLOUT_READY) is Reason.RESTARTING
    world.now += backoff_seconds(1)
    assert started(world.act()) == ["rollout-0"]
    assert world.processes["rollout-0"].num_starts == 2


def test_a_restart_waits_for_what_it_depends_on() -> None:
    world = World()
    world.run_until_training()
    world.become("server", Lifecycle.EXITED, 1)
    world.become("rollout-0", Lifecycle.EXITED, 1)
    world.now += 10
    assert started(world.act()) == ["server"]
    world.become("server", Lifecycle.READY)
    assert started(world.act()) == ["rollout-0"]


def test_pauses_grow_up_to_a_limit() -> None:
    pauses = [backoff_seconds(n) for n in range(1, 60)]
    assert pauses == sorted(pauses)
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == MAX_BACKOFF_SECONDS


@pytest.mark.parametrize("name", ["rollout-1", "trainer"])
def test_an_essential_process_given_up_fails_the_job(name: str) -> None:
    world = World()
    world.run_until_training()
    for _ in range(SPEC.backoff_limit + 1):
        assert world.plan().phase is not Phase.FAILED
        world.become(name, Lifecycle.EXITED, 1)
        world.now += MAX_BACKOFF_SECONDS
        world.act()
    assert world.processes[name].num_starts == SPEC.backoff_limit + 1
    assert world.holds(ConditionType.FAILED)
    assert world.reason(ConditionType.FAILED) is Reason.BACKOFF_LIMIT_EXCEEDED
    assert world.holds(ConditionType.STALLED)


@pytest.mark.parametrize("name", ["server", "tree-cache-0", "runahead-0"])
def test_once_training_has_begun_cache_trouble_costs_speed_only(name: str) -> None:
    world = World()
    world.run_until_training()
    world.processes[name] = ProcessStatus(Lifecycle.EXITED, SPEC.backoff_limit + 1, world.now, 1)
    world.now += MAX_BACKOFF_SECONDS
    decided = world.act()
    assert decided.phase is Phase.RUNNING
    assert started(decided) == []
    world.become("rollout-0", Lifecycle.EXITED, -9)
    world.now += MAX_BACKOFF_SECONDS
    assert started(world.act()) == ["rollout-0"]


def test_a_server_that_never_comes_up_fails_the_job() -> None:
    world = World()
    for _ in range(SPEC.backoff_limit + 1):
        world.act()
        world.become("server", Lifecycle.EXITED, 127)
        world.now += MAX_BACKOFF_SECONDS
    world.act()
    assert world.holds(ConditionType.FAILED)


def test_refused_settings_are_not_tried_again() -> None:
    world = World()
    world.run_until_training()
    world.become("trainer", Lifecycle.EXITED, PROCESS_REFUSED_CONFIGURATION)
    world.now += MAX_BACKOFF_SECONDS
    assert started(world.act()) == []
    assert world.reason(ConditionType.FAILED) is Reason.CONFIGURATION_REFUSED


def test_a_process_that_does_not_get_ready_is_stopped_and_counts_as_ended() -> None:
    world = World()
    world.act()
    world.now += READY_WITHIN_SECONDS[Component.SERVER]
    assert stopped(world.act()) == ["server"]
    world.become("server", Lifecycle.EXITED, -9)
    world.now += 1
    assert started(world.act()) == ["server"]


def test_the_trainers_success_completes_the_job_and_stops_the_rest_in_order() -> None:
    world = World()
    world.run_until_training()
    world.become("trainer", Lifecycle.EXITED, 0)
    order: list[str] = []
    while not (decided := world.act()).is_settled:
        assert decided.is_over
        assert started(decided) == []
        order += stopped(decided)
        for name in stopped(decided):
            world.become(name, Lifecycle.EXITED, -15)
    assert order == [
        "runahead-0",
        "runahead-1",
        "rollout-0",
        "rollout-1",
        "tree-cache-0",
        "server",
    ]
    assert world.holds(ConditionType.COMPLETE)
    assert world.holds(ConditionType.READY)
    assert not world.holds(ConditionType.FAILED)
    assert decided.phase is Phase.COMPLETE


def test_how_a_job_ended_is_final() -> None:
    world = World()
    world.run_until_training()
    world.become("trainer", Lifecycle.EXITED, 0)
    world.act()
    world.processes = {}
    assert world.act().phase is Phase.COMPLETE
    failed = World(conditions=())
    failed.run_until_training()
    failed.become("trainer", Lifecycle.EXITED, PROCESS_REFUSED_CONFIGURATION)
    failed.act()
    failed.processes = {}
    decided = failed.act()
    assert decided.phase is Phase.FAILED
    assert failed.reason(ConditionType.FAILED) is Reason.CONFIGURATION_REFUSED


def test_a_job_past_its_deadline_fails() -> None:
    world = World(spec=make_job(spec__activeDeadlineSeconds=60).spec)
    world.run_until_training()
    assert world.plan().requeue_after == pytest.approx(60)
    world.now += 60
    decided = world.act()
    assert decided.phase is Phase.FAILED
    assert world.reason(ConditionType.FAILED) is Reason.DEADLINE_EXCEEDED
    assert stopped(decided) == ["runahead-0", "runahead-1", "trainer"]


def test_a_suspended_job_runs_nothing() -> None:
    world = World()
    world.run_until_training()
    world.spec = make_job(spec__suspend="true").spec
    assert world.act().phase is Phase.SUSPENDED
    assert world.holds(ConditionType.SUSPENDED)
    while not (decided := world.act()).is_settled:
        for name, status in list(world.processes.items()):
            if status.lifecycle is Lifecycle.STOPPING:
                world.become(name, Lifecycle.EXITED, -15)
    assert decided.phase is Phase.SUSPENDED
    assert World(spec=world.spec).act().is_settled


def test_a_deleted_job_is_torn_down_whatever_state_it_is_in() -> None:
    world = World()
    world.run_until_training()
    world.become("rollout-0", Lifecycle.EXITED, 1)
    world.is_deleting = True
    order: list[str] = []
    while not (decided := world.act()).is_settled:
        order += stopped(decided)
        for name in stopped(decided):
            world.become(name, Lifecycle.EXITED, -15)
    assert order[-1] == "server"
    assert not world.holds(ConditionType.FAILED)


def test_processes_that_no_longer_belong_to_the_job_are_stopped() -> None:
    world = World()
    world.run_until_training()
    world.spec = make_job(spec__rollout__template__replicas=1).spec
    assert stopped(world.act()) == ["rollout-1", "runahead-1"]


def test_stock_engines_report_the_cache_as_disabled() -> None:
    world = World(spec=make_job(spec__rollout__template__drafter__enabled="false").spec)
    world.run_until_training()
    assert world.holds(ConditionType.TREE_CACHE_READY)
    assert world.reason(ConditionType.TREE_CACHE_READY) is Reason.DISABLED
    assert world.holds(ConditionType.READY)


lifecycles = st.sampled_from(Lifecycle)
exit_codes = st.sampled_from([0, 1, 2, -9, 137])
statuses = st.builds(
    lambda lifecycle, num_starts, since, code: ProcessStatus(
        lifecycle, num_starts, since, code if lifecycle is Lifecycle.EXITED else None
    ),
    lifecycles,
    st.integers(1, SPEC.backoff_limit + 1),
    st.floats(0, 2000),
    exit_codes,
)
worlds = st.builds(
    lambda processes, now, is_deleting, is_suspended: World(
        spec=make_job(spec__suspend=str(is_suspended).lower()).spec,
        now=now,
        processes=processes,
        is_deleting=is_deleting,
    ),
    st.dictionaries(st.sampled_from([*NAMES, "rollout-7"]), statuses),
    st.floats(2000, 4000),
    st.booleans(),
    st.booleans(),
)


@given(worlds)
def test_carrying_out_a_plan_leaves_nothing_to_do(world: World) -> None:
    world.act()
    assert world.plan().actions == ()


@given(worlds)
def test_no_plan_starts_what_lacks_what_it_depends_on(world: World) -> None:
    for name in started(world.plan()):
        for component in DEPENDS_ON[KINDS[name]]:
            for needed in (n for n in NAMES if KINDS[n] is component):
                status = world.processes.get(needed)
                assert status is not None
                is_given_up = status.lifecycle is Lifecycle.EXITED
                assert status.lifecycle is Lifecycle.READY or is_given_up


@given(worlds)
def test_no_plan_starts_a_process_beyond_its_limit(world: World) -> None:
    for name in started(world.plan()):
        status = world.processes.get(name)
        assert status is None or status.num_starts <= SPEC.backoff_limit


@given(worlds)
def test_complete_and_failed_exclude_each_other(world: World) -> None:
    world.act()
    assert not (world.holds(ConditionType.COMPLETE) and world.holds(ConditionType.FAILED))
    kinds = [condition.type for condition in world.conditions]
    of_pools = {ConditionType.AVAILABLE, ConditionType.PROGRESSING, ConditionType.DEGRADED}
    assert sorted(kinds) == sorted(set(ConditionType) - of_pools)


@given(worlds)
def test_a_settled_job_has_nothing_alive_and_nothing_to_do(world: World) -> None:
    decided = world.plan()
    if decided.is_settled:
        assert not decided.actions
        assert not any(status.is_alive for status in world.processes.values())


@given(st.lists(st.tuples(st.sampled_from(NAMES), exit_codes), max_size=40))
def test_any_sequence_of_deaths_ends_or_goes_on_within_the_limit(
    deaths: list[tuple[str, int]],
) -> None:
    world = World()
    world.run_until_training()
    for name, code in deaths:
        if world.processes[name].is_alive:
            world.become(name, Lifecycle.EXITED, code)
        for _ in range(8):
            world.now += MAX_BACKOFF_SECONDS
            world.act()
            for other, status in list(world.processes.items()):
                if status.lifecycle is Lifecycle.STARTING:
                    world.become(other, Lifecycle.READY)
                elif status.lifecycle is Lifecycle.STOPPING:
                    world.become(other, Lifecycle.EXITED, -15)
        assert all(s.num_starts <= SPEC.backoff_limit + 1 for s in world.processes.values())
        decided = world.act()
        assert decided.is_settled or decided.phase is Phase.RUNNING
