"""What the reconciler sees of pods: lifecycles, restarts, ends, why something does not begin."""

from __future__ import annotations

from typing import Any

import pytest

from srt_operator.backends.kubernetes import KubernetesBackend, Names, pod_status
from srt_operator.cluster.store import Store
from srt_operator.manifests.kubernetes.objects import Manifest
from srt_operator.processes import Component, Lifecycle, Member
from srt_operator.reconciler import Start, Stop
from support.jobs import make_job

NOW = 2000.0
OF_JOB = {"srt-rl.dev/job-name": "sums"}
STARTED = "1970-01-01T00:16:40Z"
REDIS = "{redis: {endpoint: 'redis://x'}, shards: 16}"


def metadata(name: str, uid: str) -> dict[str, Any]:
    return {"name": name, "namespace": "n", "resourceVersion": "1", "uid": uid}


def owned_by(uid: str, kind: str = "SRTJob", name: str = "sums") -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": True}
    return {"ownerReferences": [owner]}


def pod(name: str = "p", restarts: int = 0, *, of: str = "set", **state: Any) -> dict[str, Any]:
    ready = state.pop("ready", False)
    last = state.pop("last", {})
    container = {"name": "gateway", "ready": ready, "restartCount": restarts, "lastState": last}
    return {
        "kind": "Pod",
        "metadata": metadata(name, name) | owned_by(of, "StatefulSet") | {"labels": OF_JOB},
        "status": {"containerStatuses": [container | {"state": state}]},
    }


ENDED = {"exitCode": 3, "finishedAt": STARTED}


@pytest.mark.parametrize(
    ("found", "lifecycle", "num_starts", "since", "exit_code"),
    [
        (pod(running={"startedAt": STARTED}, ready=True), Lifecycle.READY, 1, 1000.0, None),
        (pod(restarts=2, running={"startedAt": STARTED}), Lifecycle.STARTING, 3, 1000.0, None),
        (pod(waiting={"reason": "ImagePullBackOff"}), Lifecycle.STARTING, 1, NOW, None),
        (pod(terminated=ENDED), Lifecycle.EXITED, 1, 1000.0, 3),
        (
            pod(restarts=4, waiting={"reason": "CrashLoopBackOff"}, last={"terminated": ENDED}),
            Lifecycle.EXITED,
            5,
            1000.0,
            3,
        ),
    ],
)
def test_a_container_is_a_process(
    found: dict[str, Any],
    lifecycle: Lifecycle,
    num_starts: int,
    since: float,
    exit_code: int | None,
) -> None:
    status = pod_status(found, "gateway", NOW)
    assert (status.lifecycle, status.num_starts) == (lifecycle, num_starts)
    assert (status.since, status.exit_code) == (since, exit_code)


def test_people_are_told_why_a_pod_does_not_begin() -> None:
    found = pod()
    found["status"] = {
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
            }
        ]
    }
    assert pod_status(found, "gateway", NOW).detail == (
        "Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    )


class PlayedApi:
    """Records what is done, and does it to the store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.done: list[tuple[str, str, str]] = []

    async def ensure(self, *manifests: Manifest) -> None:
        for manifest in manifests:
            self.done.append(("ensure", manifest["kind"], manifest["metadata"]["name"]))

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        assert namespace == "n"
        self.done.append(("delete", kind, name))


def backend(store: Store, *, owns_pool: bool = True) -> tuple[KubernetesBackend, PlayedApi]:
    api = PlayedApi(store)

    def manifests(component: Component, is_wanted: bool) -> list[Manifest]:
        name = "sums" if is_wanted else "nothing"
        annotations = {"srt-rl.dev/spec-hash": name}
        metadata = {"name": name, "namespace": "n", "annotations": annotations}
        return [{"kind": f"{component}", "metadata": metadata}]

    names = Names(
        namespace="n",
        job="sums",
        job_uid="job-uid",
        pool="sums",
        cache="sums",
        owns_pool=owns_pool,
        owns_cache=True,
    )
    spec = make_job(spec__treeCache__template=REDIS).spec
    made = KubernetesBackend(api, store, names, spec, manifests=manifests, now=NOW)
    return made, api


def pool(replicas: int = 2, *, of: str = "job-uid") -> dict[str, Any]:
    known = metadata("sums", "pool-uid") | owned_by(of)
    return {"kind": "RolloutPool", "metadata": known, "spec": {"replicas": replicas}}


def pod_set() -> dict[str, Any]:
    known = metadata("sums-rollout", "set") | owned_by("pool-uid", "RolloutPool")
    return {"kind": "StatefulSet", "metadata": known}


def store_with(*found: dict[str, Any]) -> Store:
    store = Store()
    for manifest in found:
        store.put(manifest)
    return store


ROLLOUTS = [Member(f"rollout-{n}", Component.ROLLOUT, n) for n in range(2)]
RUNNING: dict[str, Any] = {"running": {"startedAt": STARTED}, "ready": True}


async def test_what_was_never_made_is_absent_and_what_is_being_made_is_starting() -> None:
    assert await backend(Store())[0].observe() == {}
    seen = await backend(store_with(pool()))[0].observe()
    assert seen["rollout-0"].lifecycle is Lifecycle.STARTING


async def test_starting_two_engines_makes_one_pool() -> None:
    made, api = backend(Store())
    await made.apply([Start(member) for member in ROLLOUTS])
    assert api.done == [("ensure", "rollout", "sums")]


async def test_a_pool_that_is_shared_is_neither_made_nor_stopped() -> None:
    pods = [pod(f"sums-rollout-{n}", **RUNNING) for n in range(2)]
    made, api = backend(store_with(pool(), pod_set(), *pods), owns_pool=False)
    await made.apply([Start(ROLLOUTS[0]), Stop("rollout-0"), Stop("rollout-1")])
    assert api.done == []


async def test_stopping_every_engine_scales_the_pool_and_stopping_one_deletes_its_pod() -> None:
    pods = [pod(f"sums-rollout-{n}", **RUNNING) for n in range(2)]
    made, api = backend(store_with(pool(), pod_set(), *pods))
    await made.apply([Stop("rollout-1")])
    assert api.done == [("delete", "Pod", "sums-rollout-1")]
    api.done.clear()
    await made.apply([Stop("rollout-0"), Stop("rollout-1")])
    assert api.done == [("ensure", "rollout", "nothing")]


async def test_pods_of_a_pool_without_replicas_are_stopping() -> None:
    found = store_with(pool(0), pod_set(), pod("sums-rollout-0", **RUNNING))
    seen = await backend(found)[0].observe()
    assert seen["rollout-0"].lifecycle is Lifecycle.STOPPING
    assert "rollout-1" not in seen


async def test_pods_that_an_earlier_pool_made_are_stopping() -> None:
    pods = [pod("sums-rollout-0", **RUNNING), pod("sums-rollout-1", of="earlier", **RUNNING)]
    seen = await backend(store_with(pool(), pod_set(), *pods))[0].observe()
    assert seen["rollout-0"].lifecycle is Lifecycle.READY
    assert seen["rollout-1"].lifecycle is Lifecycle.STOPPING


async def test_pods_of_a_users_own_pool_of_the_name_are_not_the_jobs() -> None:
    theirs = pod("sums-rollout-0", **RUNNING)
    theirs["metadata"]["labels"] = {"srt-rl.dev/pool": "sums"}
    seen = await backend(store_with(pool(of="nobody"), pod_set(), theirs))[0].observe()
    assert "rollout-0" not in seen, "so the job asks for its own, and says that the name is taken"


@pytest.mark.parametrize(("uid", "is_there"), [("job-uid", True), ("an earlier job's", False)])
async def test_what_an_earlier_job_of_the_name_left_is_not_there(uid: str, is_there: bool) -> None:
    done = {
        "kind": "Job",
        "metadata": metadata("sums-trainer", "trainer") | owned_by(uid),
        "status": {"conditions": [{"type": "Complete", "status": "True"}]},
    }
    seen = await backend(store_with(done, pool(of=uid)))[0].observe()
    assert ("trainer" in seen, "rollout-0" in seen) == (is_there, is_there)
