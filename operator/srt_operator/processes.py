"""The processes of a job and what is observed of them. Pure.

server --> tree cache --> rollout engines --> trainer
   |                          |
   +--------------------------+-----------> run-ahead workers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from srt_operator.constants import PROCESS_REFUSED_CONFIGURATION
from srt_operator.resources import SRTJobSpec
from srt_operator.status import Condition


class Component(StrEnum):
    """Kinds of processes."""

    SERVER = "server"
    TREE_CACHE = "tree-cache"
    ROLLOUT = "rollout"
    RUN_AHEAD = "runahead"
    TRAINER = "trainer"


DEPENDS_ON: Final[Mapping[Component, tuple[Component, ...]]] = {
    Component.SERVER: (),
    Component.TREE_CACHE: (Component.SERVER,),
    Component.ROLLOUT: (Component.SERVER, Component.TREE_CACHE),
    Component.RUN_AHEAD: (Component.SERVER, Component.ROLLOUT),
    Component.TRAINER: (Component.SERVER, Component.TREE_CACHE, Component.ROLLOUT),
}


class Lifecycle(StrEnum):
    """Where a process stands; one that was never started is absent."""

    STARTING = "Starting"
    READY = "Ready"
    STOPPING = "Stopping"
    EXITED = "Exited"


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What a back end sees of one process."""

    lifecycle: Lifecycle
    num_starts: int
    since: float
    """When ``lifecycle`` last changed, in seconds of the clock that plans are made by."""
    exit_code: int | None = None
    """Of an exited process; negative: the signal that ended it."""
    detail: str = ""
    """What keeps it from being ready, or ended it, for people."""

    @property
    def is_alive(self) -> bool:
        """Whether it may still be running."""
        return self.lifecycle is not Lifecycle.EXITED


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of a job."""

    processes: Mapping[str, ProcessStatus]
    started_at: float
    """When the job became active."""
    conditions: Sequence[Condition] = ()
    is_deleting: bool = False
    """The job is to go away: stop everything."""
    is_cancelled: bool = False
    """A user gave the job up: it fails."""
    server_fault: str = ""
    """Why a server that is not the job's own process does not answer; empty: it does."""


@dataclass(frozen=True, slots=True)
class Member:
    """One process that a job consists of."""

    name: str
    component: Component
    index: int


def members(spec: SRTJobSpec) -> tuple[Member, ...]:
    """The processes of a job, in the order they start."""
    template = spec.rollout.pool
    has_drafter = template.drafter.enabled
    numbers = {
        Component.SERVER: 1 if spec.tree_cache.cache.redis is None else 0,
        Component.TREE_CACHE: spec.tree_cache.cache.replicas if has_drafter else 0,
        Component.ROLLOUT: template.replicas,
        Component.RUN_AHEAD: template.replicas if has_drafter and spec.run_ahead.enabled else 0,
        Component.TRAINER: 1,
    }
    single = (Component.SERVER, Component.TRAINER)
    return tuple(
        Member(str(kind) if kind in single else f"{kind}-{index}", kind, index)
        for kind, number in numbers.items()
        for index in range(number)
    )


@dataclass(frozen=True, slots=True)
class JobView:
    """One look at a job: its members beside what is observed of them."""

    spec: SRTJobSpec
    observed: Observed
    members: tuple[Member, ...]

    @classmethod
    def of(cls, spec: SRTJobSpec, observed: Observed) -> JobView:
        """The members that ``spec`` asks for."""
        return cls(spec, observed, members(spec))

    @property
    def is_unwanted(self) -> bool:
        """Somebody asked for it to stop."""
        return self.spec.suspend or self.observed.is_deleting

    @property
    def is_anything_alive(self) -> bool:
        """Whether any process may still run."""
        return any(status.is_alive for status in self.observed.processes.values())

    def status(self, member: Member) -> ProcessStatus | None:
        """None: never started."""
        return self.observed.processes.get(member.name)

    def of_kind(self, component: Component) -> list[Member]:
        """Members of one component, by index."""
        return [member for member in self.members if member.component is component]

    def is_ready(self, member: Member) -> bool:
        """It runs and serves."""
        status = self.status(member)
        return status is not None and status.lifecycle is Lifecycle.READY

    def is_finished(self, member: Member) -> bool:
        """It is the trainer and has done all steps."""
        status = self.status(member)
        is_trainer = member.component is Component.TRAINER
        return is_trainer and status is not None and not status.is_alive and status.exit_code == 0

    def is_given_up(self, member: Member) -> bool:
        """It has ended and will not be started again."""
        status = self.status(member)
        if status is None or status.is_alive or self.is_finished(member):
            return False
        has_refused = status.exit_code == PROCESS_REFUSED_CONFIGURATION
        return has_refused or status.num_starts > self.spec.backoff_limit

    def is_essential(self, member: Member) -> bool:
        """Whether the job fails with it: engines and trainer always, the rest until training."""
        if member.component in (Component.ROLLOUT, Component.TRAINER):
            return True
        return all(self.status(trainer) is None for trainer in self.of_kind(Component.TRAINER))

    def has_its_needs(self, member: Member) -> bool:
        """All it depends on are ready, or given up without failing the job."""
        return all(
            self.is_ready(needed) or self.is_given_up(needed)
            for component in DEPENDS_ON[member.component]
            for needed in self.of_kind(component)
        )
