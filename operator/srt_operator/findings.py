"""What to say about a job: how it stands, its phase, its conditions. Pure.

* Complete and Failed exclude each other and are final.
* Conditions are the contract; the phase is a word for people, derived from the same facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from srt_operator.conditions import Finding, is_true
from srt_operator.constants import (
    PROCESS_REFUSED_CONFIGURATION,
    ConditionType,
    Phase,
    Reason,
)
from srt_operator.processes import Component, JobView, Member

_GROUPS: Final = {
    ConditionType.TREE_CACHE_READY: (Component.SERVER, Component.TREE_CACHE),
    ConditionType.ROLLOUT_READY: (Component.ROLLOUT,),
    ConditionType.TRAINER_READY: (Component.TRAINER,),
}


_MAX_NAMED: Final = 8


CANCELLED_MESSAGE = "a user cancelled it"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a job ended, if it has."""

    is_complete: bool = False
    failure: Reason | None = None
    message: str = ""

    @property
    def is_over(self) -> bool:
        """Nothing will be started any more."""
        return self.is_complete or self.failure is not None


def deadline_message(seconds: int) -> str:
    """What a job's ``activeDeadlineSeconds`` say of it when they are over."""
    return f"the job was active for {seconds} s, its activeDeadlineSeconds"


def verdict(job: JobView, now: float) -> Verdict:
    """How the job stands; what its conditions already say is final."""
    conditions = job.observed.conditions
    trainers = job.of_kind(Component.TRAINER)
    if is_true(conditions, ConditionType.COMPLETE) or all(map(job.is_finished, trainers)):
        return Verdict(is_complete=True, message=f"{job.spec.algorithm.steps} steps are done")
    for condition in conditions:
        if condition.type is ConditionType.FAILED and condition.status == "True":
            return Verdict(failure=condition.reason, message=condition.message)
    if job.observed.is_cancelled:
        return Verdict(failure=Reason.CANCELLED, message=CANCELLED_MESSAGE)
    for member in job.members:
        if job.is_given_up(member) and job.is_essential(member):
            return _failure_of(job, member)
    deadline = job.spec.active_deadline_seconds
    if deadline is not None and now - job.observed.started_at >= deadline:
        return Verdict(failure=Reason.DEADLINE_EXCEEDED, message=deadline_message(deadline))
    return Verdict()


def phase(job: JobView, how: Verdict) -> Phase:
    """One word."""
    if how.is_complete:
        return Phase.COMPLETE
    if how.failure is not None:
        return Phase.FAILED
    if job.spec.suspend:
        return Phase.SUSPENDED
    if all(map(job.is_ready, job.of_kind(Component.TRAINER))):
        return Phase.RUNNING
    return Phase.STARTING if job.observed.processes else Phase.PENDING


def findings(job: JobView, how: Verdict) -> Iterator[Finding]:
    """One for each condition type of a job."""
    yield Finding(ConditionType.ACCEPTED, True, Reason.VALID)
    for kind, components in _GROUPS.items():
        concerned = [member for component in components for member in job.of_kind(component)]
        yield _readiness(job, kind, concerned, how)
    is_suspended = job.spec.suspend
    reason = Reason.SUSPEND_REQUESTED if is_suspended else Reason.NOT_SUSPENDED
    yield Finding(ConditionType.SUSPENDED, is_suspended, reason)
    yield from _endings(how)
    yield from _summaries(job, how)


def _failure_of(job: JobView, member: Member) -> Verdict:
    status = job.status(member)
    exit_code = status.exit_code if status else None
    if exit_code == PROCESS_REFUSED_CONFIGURATION:
        message = f"{member.name} refused its settings; its log says why"
        return Verdict(failure=Reason.CONFIGURATION_REFUSED, message=message)
    why = f" ({status.detail})" if status and status.detail else ""
    message = (
        f"{member.name} ended with status {exit_code}{why} "
        f"after {job.spec.backoff_limit} restarts, its backoffLimit"
    )
    return Verdict(failure=Reason.BACKOFF_LIMIT_EXCEEDED, message=message)


def _readiness(
    job: JobView, kind: ConditionType, concerned: Sequence[Member], how: Verdict
) -> Finding:
    has_cache = bool(job.of_kind(Component.TREE_CACHE))
    if kind is ConditionType.TREE_CACHE_READY and not has_cache:
        return Finding(kind, True, Reason.DISABLED, "the engines do not draft")
    if kind is ConditionType.TREE_CACHE_READY and _has_lost_server(job, how):
        return Finding(kind, False, Reason.REDIS_UNAVAILABLE, _lost_server(job))
    missing = [member for member in concerned if not job.is_ready(member)]
    if not missing:
        return Finding(kind, True, Reason.ALL_READY)
    if how.is_over or job.is_unwanted:
        reason = Reason.STOPPED
    elif any(map(job.is_given_up, missing)):
        reason = Reason.BACKOFF_LIMIT_EXCEEDED
    else:
        is_again = any(_has_ended_before(job, member) for member in missing)
        reason = Reason.RESTARTING if is_again else Reason.STARTING
    return Finding(kind, False, reason, _not_ready(job, missing))


def _not_ready(job: JobView, missing: Sequence[Member]) -> str:
    names = ", ".join(_described(job, member) for member in missing[:_MAX_NAMED])
    others = len(missing) - _MAX_NAMED
    return f"not ready: {names}" + (f" and {others} more" if others > 0 else "")


def _has_lost_server(job: JobView, how: Verdict) -> bool:
    return bool(job.observed.server_fault) and not (how.is_over or job.is_unwanted)


def _lost_server(job: JobView) -> str:
    return (
        f"the Redis-protocol server does not answer ({job.observed.server_fault}); what runs goes "
        "on, without shared trees, run-ahead and news of its progress"
    )


def _described(job: JobView, member: Member) -> str:
    status = job.status(member)
    if status is None:
        return member.name
    parts = [] if status.is_alive else [f"ended with status {status.exit_code}"]
    if status.num_starts > 1:
        parts.append(f"restart {status.num_starts - 1} of {job.spec.backoff_limit}")
    if status.detail:
        parts.append(status.detail)
    return f"{member.name} ({', '.join(parts)})" if parts else member.name


def _has_ended_before(job: JobView, member: Member) -> bool:
    status = job.status(member)
    return status is not None and (not status.is_alive or status.num_starts > 1)


def _endings(how: Verdict) -> Iterator[Finding]:
    done, failure = how.is_complete, how.failure
    reason = Reason.STEPS_COMPLETED if done else Reason.IN_PROGRESS
    yield Finding(ConditionType.COMPLETE, done, reason, how.message if done else "")
    yield Finding(
        ConditionType.FAILED,
        failure is not None,
        failure or Reason.IN_PROGRESS,
        how.message if failure else "",
    )


def _summaries(job: JobView, how: Verdict) -> Iterator[Finding]:
    """What kstatus reads: Helm's ``--wait``, Flux, Argo."""
    is_stopping = how.is_over or job.is_unwanted
    is_serving = all(job.is_ready(m) or job.is_given_up(m) for m in job.members)
    if _has_lost_server(job, how):
        lost = (Reason.REDIS_UNAVAILABLE, _lost_server(job))
        yield Finding(ConditionType.READY, False, *lost)
        yield Finding(ConditionType.RECONCILING, True, *lost)
        yield Finding(ConditionType.STALLED, False, Reason.IN_PROGRESS)
        return
    if is_stopping:
        settled = Reason.STEPS_COMPLETED if how.is_complete else how.failure or Reason.STOPPED
        is_moving, moving = job.is_anything_alive, Reason.STOPPING
    else:
        settled = Reason.ALL_READY
        is_moving, moving = not is_serving, Reason.STARTING
    is_ready = how.is_complete or (is_serving and not is_stopping)
    reason = settled if is_ready or is_stopping else moving
    is_waiting = is_moving and not is_stopping
    missing = [m for m in job.members if not job.is_ready(m) and not job.is_given_up(m)]
    message = _not_ready(job, missing) if is_waiting else how.message
    yield Finding(ConditionType.READY, is_ready, reason, message)
    yield Finding(ConditionType.RECONCILING, is_moving, moving if is_moving else settled)
    has_failed = how.failure is not None
    yield Finding(
        ConditionType.STALLED,
        has_failed,
        how.failure or Reason.IN_PROGRESS,
        how.message if has_failed else "",
    )
