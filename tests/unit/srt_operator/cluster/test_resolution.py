"""Whose a pool is when several jobs refer to it."""

from __future__ import annotations

from typing import Any

import pytest

from srt_operator.cluster.resolution import Refused, resolve
from srt_operator.cluster.store import Store
from srt_operator.constants import Kind
from srt_operator.manifests.kubernetes import training
from srt_operator.manifests.kubernetes.objects import Resource
from support.jobs import make_job

URL = "redis://x"


def job(name: str, *, minute: int, phase: str = "Running") -> dict[str, Any]:
    made = make_job(
        metadata__name=name, spec__rollout="{poolRef: {name: shared}}", spec__treeCache="{}"
    )
    document = made.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["metadata"] |= {
        "namespace": "n",
        "uid": f"{name}-uid",
        "resourceVersion": "1",
        "creationTimestamp": f"2026-01-01T00:{minute:02}:00Z",
    }
    return document | {"status": {"phase": phase}}


def trainer_of(name: str, *, end: str | None = None) -> dict[str, Any]:
    owner = {"kind": "SRTJob", "name": name, "uid": f"{name}-uid", "controller": True}
    metadata = {
        "name": f"{name}-trainer",
        "namespace": "n",
        "resourceVersion": "1",
        "ownerReferences": [owner],
    }
    conditions = [] if end is None else [{"type": end, "status": "True"}]
    return {"kind": "Job", "metadata": metadata, "status": {"conditions": conditions}}


def shared() -> list[dict[str, Any]]:
    """A pool and a cache that stand on their own."""
    made = make_job()
    owner = Resource(kind=Kind.SRT_JOB, namespace="n", name="sums", uid="u", spec=made.spec)
    found = []
    for manifest in (training.pool(owner, made), training.cache(owner, made)):
        name = "shared" if manifest["kind"] == Kind.ROLLOUT_POOL else "sums"
        metadata = {"name": name, "namespace": "n", "uid": f"{name}-uid", "resourceVersion": "1"}
        found.append(manifest | {"metadata": metadata})
    return found


def served(*found: dict[str, Any]) -> set[str]:
    """Names of the jobs that may use the pool."""
    store = Store()
    for manifest in (*found, *shared()):
        store.put(manifest)
    names = set()
    for manifest in found:
        if manifest["kind"] == "SRTJob":
            try:
                resolve(manifest, store, redis_url=URL, file_roots=("/",))
            except Refused as refused:
                assert refused.reason == "PoolInUse", refused.message
            else:
                names.add(manifest["metadata"]["name"])
    return names


def test_a_pool_of_another_model_is_refused() -> None:
    other = job("other", minute=0)
    other["spec"]["model"]["uri"] = "file:///models/other"
    store = Store()
    for manifest in (other, *shared()):
        store.put(manifest)
    with pytest.raises(Refused, match=r"spec\.model\.uri is 'file:///models/other'") as caught:
        resolve(other, store, redis_url=URL, file_roots=("/",))
    assert caught.value.reason == "ValidationFailed"


def test_a_free_pool_is_the_oldest_jobs() -> None:
    assert served(job("old", minute=0), job("young", minute=1)) == {"old"}


@pytest.mark.parametrize("phase", ["Running", "Suspended"])
def test_a_pool_is_its_whose_trainer_runs(phase: str) -> None:
    jobs = job("old", minute=0, phase=phase), job("young", minute=1)
    assert served(*jobs, trainer_of("young")) == {"young"}


def test_a_suspended_jobs_trainer_is_waited_for() -> None:
    jobs = job("old", minute=0, phase="Suspended"), job("young", minute=1)
    assert served(*jobs, trainer_of("old")) == {"old"}
    assert served(*jobs) == {"old", "young"}, "nothing of the suspended one is left"


def test_an_ended_trainer_holds_no_pool() -> None:
    jobs = job("old", minute=0, phase="Complete"), job("young", minute=1)
    assert "young" in served(*jobs, trainer_of("old", end="Complete"))


REFUSED = {"conditions": [{"type": "Accepted", "status": "False"}], "phase": "Pending"}


@pytest.mark.parametrize(
    "changes",
    [
        {"status": REFUSED},
        {"metadata": {"annotations": {"srt-rl.dev/cancelled": "true"}}},
        {"spec": {"suspend": True}},
        {"spec": {"managedBy": "kueue.x-k8s.io/multikueue"}},
    ],
)
def test_a_job_that_will_not_start_holds_no_pool(changes: dict[str, Any]) -> None:
    old = job("old", minute=0, phase="Pending")
    young = job("young", minute=1, phase="Pending")
    assert "young" not in served(old, young)
    for part, values in changes.items():
        old[part] = old[part] | values
    assert "young" in served(old, young)
