"""One job's processes as pods: what the reconciler sees of them, and how its actions are done.

* Pods restart by themselves: `Start` makes sure that what makes them is there, and nothing more.
* What is there is kept as it was made; a trainer's Job that an earlier spec made is left alone, for
  its pods cannot change.
* `Stop` of every engine or replica scales what makes them to none, so that what lies in Redis
  stays; of the trainer deletes its Job; of a single pod among several, that pod.
* What another job of the same name left is not there: it goes with its own owner.
* A pool or cache that the job only refers to is never started or stopped.
* A run-ahead worker lives in its engine's pod and goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

from srt_operator.cluster.store import Store, controller_uid, key_of
from srt_operator.constants import Kind
from srt_operator.manifests.kubernetes.objects import (
    LABEL_JOB,
    SPEC_HASH,
    Manifest,
    cache_set,
    rollout_set,
    trainer_name,
)
from srt_operator.processes import Component, Lifecycle, Member, ProcessStatus, members
from srt_operator.reconciler import Action, Start
from srt_operator.resources import SRTJobSpec

_WAITING_AGAIN: Final = frozenset({"CrashLoopBackOff"})
_DETAIL_CHARACTERS: Final = 200
_CONTAINERS: Final = {
    Component.ROLLOUT: "gateway",
    Component.RUN_AHEAD: "runahead",
    Component.TREE_CACHE: "tree-cache",
    Component.TRAINER: "trainer",
}


class Api(Protocol):
    """The part of the API that is needed."""

    async def ensure(self, *manifests: Manifest) -> None:
        """Have objects as the manifests say."""
        ...

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete, with all that it owns."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a job's parts are called."""

    namespace: str
    job: str
    job_uid: str
    pool: str
    cache: str | None
    owns_pool: bool
    owns_cache: bool

    def workload(self, component: Component) -> tuple[str, str] | None:
        """Kind and name of what makes the pods of a component."""
        if component is Component.TRAINER:
            return "Job", trainer_name(self.job)
        if component in (Component.ROLLOUT, Component.RUN_AHEAD):
            return str(Kind.ROLLOUT_POOL), self.pool
        return None if self.cache is None else (str(Kind.TREE_CACHE), self.cache)

    def is_owned(self, component: Component) -> bool:
        """Whether the job makes and deletes it."""
        if component is Component.TREE_CACHE:
            return self.owns_cache
        return component is Component.TRAINER or self.owns_pool

    def pod_set(self, component: Component) -> str:
        """StatefulSet of the pods of engines or replicas."""
        if component is Component.TREE_CACHE:
            return cache_set(self.cache or "")
        return rollout_set(self.pool)

    def pod(self, member: Member) -> str:
        """Of a member; the trainer's pods are found by their Job."""
        return f"{self.pod_set(member.component)}-{member.index}"


class KubernetesBackend:
    """A job's processes in a cluster."""

    def __init__(
        self,
        api: Api,
        store: Store,
        names: Names,
        spec: SRTJobSpec,
        *,
        manifests: Callable[[Component, bool], Sequence[Manifest]],
        now: float,
    ) -> None:
        """One look and what follows from it.

        Args:
            api: where actions go.
            store: what is there.
            names: of the job's parts.
            spec: with references resolved.
            manifests: what makes the pods of a component that the job owns, or, if they are not
                wanted, what takes them away.
            now: of the statuses' times.
        """
        self._api = api
        self._store = store
        self._names = names
        self._spec = spec
        self._manifests = manifests
        self._now = now

    async def observe(self) -> Mapping[str, ProcessStatus]:
        """How the processes stand now."""
        found = {member.name: self._status(member) for member in members(self._spec)}
        return {name: status for name, status in found.items() if status is not None}

    async def apply(self, actions: Sequence[Action]) -> None:
        """Carry out actions in their order."""
        starts = [action.member for action in actions if isinstance(action, Start)]
        for component in dict.fromkeys(member.component for member in starts):
            if self._names.is_owned(component) and component is not Component.RUN_AHEAD:
                await self._make(component, is_wanted=True)
        stops = {action.name for action in actions if not isinstance(action, Start)}
        for component in Component if stops else ():
            await self._stop(component, stops)

    async def bring_up_to_date(self) -> None:
        """Have what is there as the job says, whoever changed it."""
        for component in (Component.TREE_CACHE, Component.ROLLOUT, Component.TRAINER):
            workload = self._workload(component)
            is_there = workload is not None and not _is_going(workload)
            if is_there and self._names.is_owned(component):
                await self._make(component, is_wanted=True)

    async def _make(self, component: Component, *, is_wanted: bool) -> None:
        wanted = self._manifests(component, is_wanted)
        await self._api.ensure(*(made for made in wanted if not self._is_of_earlier_spec(made)))

    def _is_of_earlier_spec(self, manifest: Manifest) -> bool:
        """Whether the Job that is there cannot become what is wanted."""
        there = self._store.get(*key_of(manifest))
        is_other = there is not None and _digest(there) != _digest(manifest)
        return manifest["kind"] == "Job" and is_other

    async def _stop(self, component: Component, names: set[str]) -> None:
        if component is Component.RUN_AHEAD or not self._names.is_owned(component):
            return
        alive = {
            member.name
            for member in members(self._spec)
            if member.component is component
            and (status := self._status(member)) is not None
            and status.is_alive
        }
        workload = self._names.workload(component)
        if workload is None or not alive & names:
            return
        if alive <= names and component is Component.TRAINER:
            await self._api.delete(workload[0], self._names.namespace, workload[1])
            return
        if alive <= names:
            await self._make(component, is_wanted=False)
            return
        for member in members(self._spec):
            if member.name in alive & names:
                await self._api.delete("Pod", self._names.namespace, self._names.pod(member))

    def _workload(self, component: Component) -> Manifest | None:
        found = self._names.workload(component)
        there = found and self._store.get(found[0], self._names.namespace, found[1])
        if not there or not self._names.is_owned(component):
            return there or None
        return there if controller_uid(there) == self._names.job_uid else None

    def _status(self, member: Member) -> ProcessStatus | None:
        workload = self._workload(member.component)
        if member.component is Component.TRAINER:
            return self._trainer(workload)
        pod = self._pod(member)
        is_going = workload is None or _is_going(workload) or workload["spec"].get("replicas") == 0
        if pod is not None and workload is not None:
            is_going = is_going or not self._is_made_by(workload, pod, member.component)
        if pod is None:
            return None if is_going else ProcessStatus(Lifecycle.STARTING, 1, self._now)
        status = pod_status(pod, _CONTAINERS[member.component], self._now)
        if is_going and status.is_alive:
            return ProcessStatus(Lifecycle.STOPPING, status.num_starts, status.since)
        return status

    def _pod(self, member: Member) -> Manifest | None:
        """What a user's own pool or cache of the job's name made is not the job's."""
        pod = self._store.get("Pod", self._names.namespace, self._names.pod(member))
        if pod is None or not self._names.is_owned(member.component):
            return pod
        labels: Manifest = pod["metadata"].get("labels", {})
        return pod if labels.get(LABEL_JOB) == self._names.job else None

    def _is_made_by(self, workload: Manifest, pod: Manifest, component: Component) -> bool:
        """Whether a pod is of the StatefulSet that a workload controls now."""
        pod_set = self._names.pod_set(component)
        made_by = self._store.get("StatefulSet", self._names.namespace, pod_set)
        return (
            made_by is not None
            and controller_uid(made_by) == workload["metadata"]["uid"]
            and controller_uid(pod) == made_by["metadata"]["uid"]
        )

    def _trainer(self, job: Manifest | None) -> ProcessStatus | None:
        name = trainer_name(self._names.job)
        pods = self._store.of_owner("Pod", self._names.namespace, "Job", name)
        if job is not None:
            pods = [pod for pod in pods if controller_uid(pod) == job["metadata"]["uid"]]
        statuses = [pod_status(pod, "trainer", self._now) for pod in pods]
        if job is None or _is_going(job):
            alive = [status for status in statuses if status.is_alive]
            if not alive and job is None:
                return None
            return ProcessStatus(Lifecycle.STOPPING, 1, self._now)
        num_failed = int(job.get("status", {}).get("failed", 0))
        num_starts = max((status.num_starts for status in statuses), default=1) + num_failed
        ended = _job_end(job, statuses, self._now)
        if ended is not None:
            is_given_up = ended.exit_code != 0
            num_starts = max(num_starts, self._spec.backoff_limit + 1 if is_given_up else 1)
            return replace(ended, num_starts=num_starts)
        if not statuses:
            return ProcessStatus(Lifecycle.STARTING, num_starts, self._now)
        newest = max(statuses, key=lambda status: (status.is_alive, status.since))
        return replace(newest, num_starts=num_starts)


def pod_status(pod: Manifest, container: str, now: float) -> ProcessStatus:
    """How one container of a pod stands. Pure.

    What has not begun counts from now on: nobody knows how long a node or an image takes.
    """
    state = _container(pod, container)
    num_starts = int(state.get("restartCount", 0)) + 1
    if _is_going(pod):
        return ProcessStatus(Lifecycle.STOPPING, num_starts, now)
    states: Manifest = state.get("state") or {"waiting": {}}
    [(kind, details)] = states.items()
    if kind == "running":
        since = seconds_of(details.get("startedAt"), now)
        if state.get("ready"):
            return ProcessStatus(Lifecycle.READY, num_starts, since)
        return ProcessStatus(Lifecycle.STARTING, num_starts, since)
    if kind == "terminated":
        return _ended(details, num_starts, now)
    last = state.get("lastState", {}).get("terminated")
    if last is not None and details.get("reason") in _WAITING_AGAIN:
        return _ended(last, num_starts, now)
    return ProcessStatus(Lifecycle.STARTING, num_starts, now, detail=_waits_for(pod, details))


def seconds_of(instant: str | None, default: float) -> float:
    """Seconds since the epoch of an RFC 3339 instant."""
    return default if instant is None else datetime.fromisoformat(instant).timestamp()


def _ended(details: Manifest, num_starts: int, now: float) -> ProcessStatus:
    since = seconds_of(details.get("finishedAt"), now)
    exit_code = int(details.get("exitCode", 1))
    return ProcessStatus(Lifecycle.EXITED, num_starts, since, exit_code, _text(details))


def _waits_for(pod: Manifest, details: Manifest) -> str:
    """Why a container has not begun, for people."""
    if details.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
        return _text(details)
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _text(condition)
    return ""


def _text(details: Manifest) -> str:
    parts = (details.get("reason"), details.get("message"))
    text = ": ".join(part for part in parts if part)
    return " ".join(text.split())[:_DETAIL_CHARACTERS]


def _job_end(job: Manifest, statuses: Iterable[ProcessStatus], now: float) -> ProcessStatus | None:
    """The end of a finished Job; None while it goes on."""
    for condition in job.get("status", {}).get("conditions", ()):
        if condition.get("status") != "True":
            continue
        since = seconds_of(condition.get("lastTransitionTime"), now)
        if condition["type"] == "Complete":
            return ProcessStatus(Lifecycle.EXITED, 1, since, 0)
        if condition["type"] == "Failed":
            codes = [s.exit_code for s in statuses if s.exit_code]
            exit_code = codes[-1] if codes else 1
            return ProcessStatus(Lifecycle.EXITED, 1, since, exit_code, _text(condition))
    return None


def _container(pod: Manifest, name: str) -> Manifest:
    found: Iterable[Manifest] = pod.get("status", {}).get("containerStatuses", ())
    return next((state for state in found if state["name"] == name), {})


def _is_going(manifest: Manifest) -> bool:
    return manifest["metadata"].get("deletionTimestamp") is not None


def _digest(manifest: Manifest) -> str | None:
    digest: str | None = manifest["metadata"].get("annotations", {}).get(SPEC_HASH)
    return digest
