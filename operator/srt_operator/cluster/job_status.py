"""The status of an SRTJob in a cluster, from what was decided and heard. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from srt_operator import conditions
from srt_operator.cluster.companions import Reading
from srt_operator.cluster.resolution import Refused, Resolved
from srt_operator.cluster.sayings import conditions_of
from srt_operator.conditions import Finding, is_true, rfc3339
from srt_operator.constants import ConditionType, Phase, Reason
from srt_operator.manifests.kubernetes.objects import Manifest
from srt_operator.processes import Component, Lifecycle, ProcessStatus, members
from srt_operator.reconciler import Plan
from srt_operator.status import (
    CacheReport,
    Condition,
    ProcessReport,
    Progress,
    RolloutReport,
    SRTJobStatus,
    read_status,
)

MAX_PROCESSES: Final = 32
"""Of those that are not ready or were restarted: a status must stay small."""


def before(manifest: Manifest) -> SRTJobStatus:
    """What was said last; nothing, if it is not ours."""
    return read_status(manifest.get("status", {}))


def refused(
    manifest: Manifest, refusal: Refused, stop: Finding | None, *, now: float
) -> SRTJobStatus:
    """Of a job that cannot be acted on: wrong, or waiting for something. ``stop``: what ends or
    halts it all the same.
    """
    is_wrong = refusal.missing is None
    text = (refusal.reason, refusal.message)
    found = [
        Finding(ConditionType.ACCEPTED, not is_wrong, *text),
        Finding(ConditionType.READY, False, *text),
        Finding(ConditionType.STALLED, is_wrong, *text),
        Finding(ConditionType.RECONCILING, not is_wrong, *text),
    ]
    if refusal.missing is not None:
        found.append(Finding(refusal.missing, False, *text))
    if stop is not None:
        found += [stop, Finding(ConditionType.TRAINER_READY, False, stop.reason, stop.message)]
    elif is_true(conditions_of(manifest), ConditionType.SUSPENDED):
        found.append(Finding(ConditionType.SUSPENDED, False, Reason.NOT_SUSPENDED))
    last = before(manifest)
    generation = manifest["metadata"].get("generation", 1)
    of_each_type = {finding.type: finding for finding in found}.values()
    merged = conditions.merge(conditions_of(manifest), of_each_type, now=now, generation=generation)
    return last.model_copy(
        update={
            "observed_generation": generation,
            "phase": _halted(last.phase, stop),
            "conditions": merged,
            "completion_time": _ended_at(merged),
        }
    )


def _halted(last: Phase, stop: Finding | None) -> Phase:
    """The word for a job that cannot be acted on."""
    if stop is not None:
        return Phase.FAILED if stop.type is ConditionType.FAILED else Phase.SUSPENDED
    return Phase.PENDING if last is Phase.SUSPENDED else last


def of_job(
    manifest: Manifest,
    resolved: Resolved,
    decided: Plan,
    processes: Mapping[str, ProcessStatus],
    *,
    reading: Reading | None,
    now: float,
) -> SRTJobStatus:
    """Of a job that is acted on. ``reading``: what was heard last; None: nothing this time."""
    last, spec = before(manifest), resolved.job.spec
    generation = manifest["metadata"].get("generation", 1)
    merged = conditions.merge(
        conditions_of(manifest), decided.findings, now=now, generation=generation
    )
    is_complete = is_true(merged, ConditionType.COMPLETE)
    changes: dict[str, Any] = {
        "observed_generation": generation,
        "phase": decided.phase,
        "conditions": merged,
        "processes": _processes(resolved, processes, last.processes),
        "progress": last.progress
        if is_true(last.conditions, ConditionType.COMPLETE)
        else _progress(last.progress, reading, spec.algorithm.steps, is_complete),
        "start_time": None if decided.phase is Phase.SUSPENDED else last.start_time or rfc3339(now),
        "completion_time": _ended_at(merged),
        "rollout": _rollout(resolved, processes),
        "cache": CacheReport(
            cacheName=resolved.names.cache or "",
            hitRate=(reading.hit_rate if reading else "") or last.cache.hit_rate,
        ),
    }
    if reading is not None and reading.run_ahead.completed >= last.run_ahead.completed:
        sent = max(last.run_ahead.dispatched, reading.run_ahead.dispatched)
        changes["run_ahead"] = reading.run_ahead.model_copy(update={"dispatched": sent})
    return last.model_copy(update=changes)


def _processes(
    resolved: Resolved, processes: Mapping[str, ProcessStatus], last: Sequence[ProcessReport]
) -> tuple[ProcessReport, ...]:
    """Restarts only grow: a pod that is made anew has forgotten its own."""
    counted = {report.name: report.restarts for report in last}
    reports = []
    for member in members(resolved.job.spec):
        status, restarts = processes.get(member.name), counted.get(member.name, 0)
        if status is None:
            reports.append(ProcessReport(name=member.name, state="Absent", restarts=restarts))
            continue
        restarts = max(restarts, status.num_starts - 1)
        if status.lifecycle is not Lifecycle.READY or restarts:
            reports.append(
                ProcessReport(
                    name=member.name,
                    state=str(status.lifecycle),
                    restarts=restarts,
                    exitCode=status.exit_code,
                )
            )
    return tuple(reports[:MAX_PROCESSES])


def _progress(last: Progress, reading: Reading | None, steps: int, is_complete: bool) -> Progress:
    heard = None if reading is None else reading.step
    step = steps if is_complete else max(last.step, heard or 0)
    return Progress(step=step, steps=steps, display=f"{step}/{steps}")


def _rollout(resolved: Resolved, processes: Mapping[str, ProcessStatus]) -> RolloutReport:
    engines = [m for m in members(resolved.job.spec) if m.component is Component.ROLLOUT]
    ready = sum(
        name in processes and processes[name].lifecycle is Lifecycle.READY
        for name in (engine.name for engine in engines)
    )
    return RolloutReport(
        poolName=resolved.names.pool,
        desired=len(engines),
        ready=ready,
        display=f"{ready}/{len(engines)}",
    )


def _ended_at(found: tuple[Condition, ...]) -> str | None:
    for condition in found:
        is_end = condition.type in (ConditionType.COMPLETE, ConditionType.FAILED)
        if is_end and condition.status == "True":
            return condition.last_transition_time
    return None
