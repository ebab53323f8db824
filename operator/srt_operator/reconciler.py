"""What a job needs next: ``plan(spec, observed, now)``. Pure; every back end carries out the same.

* A process starts when all it depends on are ready, and stops when nothing depends on it.
* A process that ends is started again after a growing pause, at most ``backoffLimit`` times.
* The trainer's exit status 0 completes the job. An engine or the trainer given up fails it; once
  training has begun, trouble with anything else only costs speed.
* Carrying out a plan and planning again gives no further action.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from srt_operator.conditions import Finding
from srt_operator.constants import Phase
from srt_operator.findings import findings, phase, verdict
from srt_operator.processes import DEPENDS_ON, Component, JobView, Lifecycle, Member, Observed
from srt_operator.resources import SRTJobSpec

READY_WITHIN_SECONDS: Final[Mapping[Component, float]] = {
    Component.SERVER: 30.0,
    Component.TREE_CACHE: 120.0,
    Component.ROLLOUT: 960.0,
    Component.RUN_AHEAD: 120.0,
    Component.TRAINER: 960.0,
}
"""A process that is not ready by then is stopped, which counts as an end like any other."""

BACKOFF_SECONDS: Final = 1.0
MAX_BACKOFF_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Start:
    """Start a process that does not run."""

    member: Member


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask a running process to end, and make it end when it does not."""

    name: str


Action = Start | Stop


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now and what to say about it."""

    actions: tuple[Action, ...]
    findings: tuple[Finding, ...]
    phase: Phase
    requeue_after: float | None
    """Plan again after this many seconds, or earlier when something changes."""
    is_over: bool
    """The job is complete or has failed; what still runs is being stopped."""
    is_settled: bool
    """The job is over, suspended or deleted, and nothing runs any more."""


def plan(spec: SRTJobSpec, observed: Observed, now: float) -> Plan:
    """Decide the next actions.

    Args:
        spec: what the user wants.
        observed: what is; names without a process are absent.
        now: seconds; only differences to the times in ``observed`` matter.
    """
    job = JobView.of(spec, observed)
    how = verdict(job, now)
    is_ending = how.is_over or job.is_unwanted
    actions = tuple(_stops(job) if is_ending else _moves(job, now))
    return Plan(
        actions=actions,
        findings=tuple(findings(job, how)),
        phase=phase(job, how),
        requeue_after=None if is_ending else _next_look(job, now),
        is_over=how.is_over,
        is_settled=is_ending and not job.is_anything_alive,
    )


def backoff_seconds(num_starts: int) -> float:
    """Pause before the start that follows ``num_starts`` earlier ones."""
    return min(BACKOFF_SECONDS * 2.0 ** min(num_starts - 1, 30), MAX_BACKOFF_SECONDS)


def _moves(job: JobView, now: float) -> Iterator[Action]:
    """Starts that are due, and stops of processes that do not get ready or belong nowhere."""
    known = {member.name for member in job.members}
    for name, status in job.observed.processes.items():
        if name not in known and status.lifecycle in (Lifecycle.STARTING, Lifecycle.READY):
            yield Stop(name)
    for member in job.members:
        if _is_due(job, member, now) and job.has_its_needs(member):
            yield Start(member)
        elif _is_stuck(job, member, now):
            yield Stop(member.name)


def _is_due(job: JobView, member: Member, now: float) -> bool:
    status = job.status(member)
    if status is None:
        return True
    if status.is_alive or job.is_given_up(member):
        return False
    return now - status.since >= backoff_seconds(status.num_starts)


def _is_stuck(job: JobView, member: Member, now: float) -> bool:
    status = job.status(member)
    if status is None or status.lifecycle is not Lifecycle.STARTING:
        return False
    return now - status.since >= READY_WITHIN_SECONDS[member.component]


def _stops(job: JobView) -> Iterator[Stop]:
    """Stops of processes that no living process depends on."""
    kinds = {member.name: member.component for member in job.members}
    alive = [name for name, status in job.observed.processes.items() if status.is_alive]
    needed = {need for name in alive if name in kinds for need in DEPENDS_ON[kinds[name]]}
    for name in sorted(alive):
        is_asked = job.observed.processes[name].lifecycle is Lifecycle.STOPPING
        if not is_asked and kinds.get(name) not in needed:
            yield Stop(name)


def _next_look(job: JobView, now: float) -> float | None:
    """Seconds until time alone changes the plan; None: only an event does."""
    moments = []
    for member in job.members:
        status = job.status(member)
        if status is None:
            continue
        if not status.is_alive:
            moments.append(status.since + backoff_seconds(status.num_starts))
        elif status.lifecycle is Lifecycle.STARTING:
            moments.append(status.since + READY_WITHIN_SECONDS[member.component])
    if job.spec.active_deadline_seconds is not None:
        moments.append(job.observed.started_at + job.spec.active_deadline_seconds)
    return min((moment - now for moment in moments if moment > now), default=None)
