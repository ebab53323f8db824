"""The operator process on a real control plane: from a job to its pods and through its ends, with
statuses, events, references, finalizers. A kubelet is played; pods really run in the node's tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.cluster import ControlPlane
from support.operator_process import OperatorProcess, wait_for
from support.redis_server import RedisServer
from support.stage import Stage


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer.started() as server:
        yield server


@pytest.fixture(scope="module")
def operator(
    plane: ControlPlane, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    folder = tmp_path_factory.mktemp("operator")
    with OperatorProcess.started(plane, folder, redis.url) as process:
        yield process


@pytest.fixture
def stage(
    plane: ControlPlane, operator: OperatorProcess, request: pytest.FixtureRequest
) -> Iterator[Stage]:
    name = f"t{abs(hash(request.node.name)) % 10**8}"
    plane.kubectl("create", "namespace", name)
    yield Stage(plane, name)
    assert "Traceback" not in operator.log()
    assert "forbidden" not in operator.log()


def test_a_job_runs_from_its_cache_to_its_end(stage: Stage) -> None:
    stage.apply("sums")
    stage.kubelet.make_ready(1, role="tree-cache")
    stage.until("treecache", "sums", "Ready")
    stage.kubelet.make_ready(2, role="rollout")
    stage.until("rolloutpool", "sums", "Available")
    stage.kubelet.make_ready(1, role="trainer")
    stage.until("srtjob", "sums", "Ready")
    status = stage.job("sums")["status"]
    assert status["phase"] == "Running"
    assert status["rollout"]["display"] == "2/2"
    assert status["progress"]["display"] == "0/3"
    stage.kubelet.end(0, role="trainer")
    stage.until("srtjob", "sums", "Complete")
    stage.swept(lambda: not stage.kubelet.pods(role="rollout"), "engines are gone")
    stage.swept(lambda: not stage.kubelet.pods(role="tree-cache"), "the cache's pods are gone")
    status = stage.job("sums")["status"]
    assert (status["phase"], status["progress"]["display"]) == ("Complete", "3/3")
    assert status["completionTime"]
    assert {"Accepted", "TrainerReady", "Complete"} <= stage.reasons()
    columns = stage.plane.kubectl("get", "srt", "-n", stage.namespace)
    assert "Complete" in columns
    assert "3/3" in columns


def test_nothing_of_a_deleted_job_stays(stage: Stage) -> None:
    stage.apply("gone")
    stage.run_until_training("gone")
    stage.plane.kubectl("delete", "srtjob", "gone", "-n", stage.namespace, "--wait=false")
    kinds = (
        "srtjobs,rolloutpools,treecaches,statefulsets,jobs,pods,services,secrets,"
        "poddisruptionbudgets"
    )
    stage.swept(lambda: stage.names(kinds) == [], "everything is gone")


def test_a_suspended_job_stops_and_goes_on(stage: Stage) -> None:
    stage.apply("pause")
    stage.run_until_training("pause")
    uid = stage.plane.get("treecache", "pause", "-n", stage.namespace)["metadata"]["uid"]
    stage.apply("pause", suspend=True)
    stage.until("srtjob", "pause", "Suspended")
    stage.swept(lambda: stage.names("pods") == [], "pods are gone")
    assert stage.job("pause")["status"]["phase"] == "Suspended"
    stage.apply("pause", suspend=False)
    stage.run_until_training("pause")
    assert stage.plane.get("treecache", "pause", "-n", stage.namespace)["metadata"]["uid"] == uid


def test_a_trainer_that_fails_too_often_fails_the_job(stage: Stage) -> None:
    stage.apply("fails", backoffLimit=1)
    stage.run_until_training("fails")
    [pod] = stage.kubelet.pods(role="trainer")
    when = "2026-01-01T00:00:00Z"
    ended = {"terminated": {"exitCode": 1, "startedAt": when, "finishedAt": when}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    stage.kubelet.set_state(pod, waiting, restarts=1, last=ended)
    condition = stage.until("srtjob", "fails", "Failed")
    assert condition["reason"] == "BackoffLimitExceeded"
    assert "trainer ended with status 1 after 1 restarts" in condition["message"]


def test_settings_that_a_pod_refuses_fail_the_job_at_once(stage: Stage) -> None:
    stage.apply("refused")
    stage.kubelet.make_ready(1, role="tree-cache")
    wait_for(lambda: len(stage.kubelet.pods(role="rollout")) == 2, "two engines")
    when = "2026-01-01T00:00:00Z"
    ended = {"terminated": {"exitCode": 2, "startedAt": when, "finishedAt": when}}
    for pod in stage.kubelet.pods(role="rollout"):
        waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
        stage.kubelet.set_state(pod, waiting, restarts=1, last=ended)
    assert stage.until("srtjob", "refused", "Failed")["reason"] == "ConfigurationRefused"


def test_what_a_cluster_does_not_allow_is_a_sentence(stage: Stage) -> None:
    stage.apply("shadow", model={"uri": "file:///etc/shadow"})
    condition = stage.until("srtjob", "shadow", "Accepted", "False")
    assert condition["reason"] == "ValidationFailed"
    assert condition["message"] == (
        "spec.model.uri is 'file:///etc/shadow': allowed in a cluster is file:// below /models "
        "or /data"
    )
    assert stage.names("rolloutpools,treecaches,jobs") == []


def test_a_job_waits_for_the_cache_it_refers_to(stage: Stage) -> None:
    stage.apply("waits", treeCache={"cacheRef": {"name": "shared"}})
    condition = stage.until("srtjob", "waits", "TreeCacheReady", "False")
    assert condition["reason"] == "ReferenceMissing"
    cache = {
        "apiVersion": "srt-rl.dev/v1alpha1",
        "kind": "TreeCache",
        "metadata": {"name": "shared", "namespace": stage.namespace},
        "spec": {"shards": 16},
    }
    stage.plane.apply(cache)
    stage.run_until_training("waits")
    assert stage.names("treecaches") == ["treecache.srt-rl.dev/shared"]
    stage.kubelet.end(0, role="trainer")
    stage.until("srtjob", "waits", "Complete")
    stage.swept(lambda: not stage.kubelet.pods(role="rollout"), "its engines are gone")
    assert len(stage.kubelet.pods(role="tree-cache")) == 1


def test_a_pool_is_used_by_one_job_after_the_other_and_stays(stage: Stage) -> None:
    pool = {
        "apiVersion": "srt-rl.dev/v1alpha1",
        "kind": "RolloutPool",
        "metadata": {"name": "pool", "namespace": stage.namespace},
        "spec": {
            "model": {"uri": "file:///models/tiny"},
            "engine": {"maxNumSeqs": 16, "maxModelLen": 128},
            "drafter": {"enabled": False},
            "runAhead": {"enabled": False},
        },
    }
    uses = {
        "rollout": {"poolRef": {"name": "pool"}},
        "treeCache": {},
        "runAhead": {"enabled": False},
    }
    stage.plane.apply(pool)
    stage.kubelet.make_ready(1, role="rollout")
    stage.apply("first", **uses)
    stage.kubelet.make_ready(1, role="trainer")
    stage.until("srtjob", "first", "TrainerReady")
    stage.apply("second", **uses)
    condition = stage.until("srtjob", "second", "RolloutReady", "False")
    assert condition["reason"] == "PoolInUse"
    stage.kubelet.end(0, role="trainer")
    stage.until("srtjob", "first", "Complete")
    stage.kubelet.make_ready(2, role="trainer")
    stage.until("srtjob", "second", "TrainerReady")
    assert len(stage.kubelet.pods(role="rollout")) == 1


def test_an_ended_job_is_deleted_after_its_time(stage: Stage) -> None:
    stage.apply("short", ttlSecondsAfterFinished=1)
    stage.run_until_training("short")
    stage.kubelet.end(0, role="trainer")
    stage.swept(lambda: stage.names("srtjobs") == [], "the job is gone")


def test_somebody_elses_job_is_left_alone(stage: Stage) -> None:
    stage.apply("theirs", managedBy="kueue.x-k8s.io/multikueue")
    stage.apply("ours")
    wait_for(lambda: stage.names("treecaches"), "our job's cache")
    assert stage.names("treecaches") == ["treecache.srt-rl.dev/ours"]
    assert "status" not in stage.job("theirs")
    assert "finalizers" not in stage.job("theirs")["metadata"]


def test_a_deleted_pod_does_not_end_the_job(stage: Stage) -> None:
    stage.apply("chaos")
    stage.run_until_training("chaos")
    for role in ("rollout", "tree-cache", "trainer"):
        name = stage.kubelet.pods(role=role)[0]["metadata"]["name"]
        uid = stage.kubelet.pods(role=role)[0]["metadata"]["uid"]
        stage.plane.kubectl(
            "delete", "pod", name, "-n", stage.namespace, "--force", "--grace-period=0"
        )

        def is_made_anew(role: str = role, uid: str = uid) -> bool:
            return uid not in {p["metadata"]["uid"] for p in stage.kubelet.pods(role=role)}

        wait_for(is_made_anew, f"{role} is made anew")
        stage.kubelet.make_ready(2 if role == "rollout" else 1, role=role)
    stage.until("srtjob", "chaos", "Ready")
    assert stage.job("chaos")["status"]["phase"] == "Running"


def test_restarts_of_the_trainer_are_counted_and_told(stage: Stage) -> None:
    stage.apply("again")
    stage.run_until_training("again")
    [pod] = stage.kubelet.pods(role="trainer")
    when = "2026-01-01T00:00:00Z"
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": when}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    stage.kubelet.set_state(pod, waiting, restarts=1, last=ended)
    condition = stage.until("srtjob", "again", "TrainerReady", "False")
    assert condition["reason"] == "Restarting"
    assert condition["message"] == (
        "not ready: trainer (ended with status 137, restart 1 of 3, OOMKilled)"
    )
    stage.kubelet.set_state(pod, {"running": {"startedAt": when}}, restarts=2)
    stage.until("srtjob", "again", "TrainerReady")
    report = {"name": "trainer", "state": "Ready", "restarts": 2}
    wait_for(lambda: stage.job("again")["status"]["processes"] == [report], "two restarts")
    stage.kubelet.end(0, role="trainer")
    stage.until("srtjob", "again", "Complete")
    [ended_report] = [r for r in stage.job("again")["status"]["processes"] if r["restarts"]]
    assert (ended_report["name"], ended_report["restarts"]) == ("trainer", 2)


def test_what_a_user_has_of_a_jobs_name_is_not_taken_over(stage: Stage) -> None:
    cache = {
        "apiVersion": "srt-rl.dev/v1alpha1",
        "kind": "TreeCache",
        "metadata": {"name": "taken", "namespace": stage.namespace},
        "spec": {"shards": 16, "deletionPolicy": "Retain"},
    }
    stage.plane.apply(cache)
    stage.apply("taken")
    wait_for(
        lambda: stage.condition("srtjob", "taken", "TreeCacheReady")["reason"] == "NameTaken",
        "the job says that the name is taken",
    )
    there = stage.plane.get("treecache", "taken", "-n", stage.namespace)
    assert there["spec"]["deletionPolicy"] == "Retain"
    assert "ownerReferences" not in there["metadata"]
    stage.plane.kubectl("delete", "treecache", "taken", "-n", stage.namespace, "--wait=false")
    uid = stage.job("taken")["metadata"]["uid"]
    stage.swept(lambda: stage.pods_are_of(uid, 1), "the job has a cache of its own")
    stage.run_until_training("taken")


def test_a_job_that_is_made_again_begins_anew(stage: Stage) -> None:
    stage.apply("again")
    stage.run_until_training("again")
    stage.kubelet.end(0, role="trainer")
    stage.until("srtjob", "again", "Complete")
    stage.plane.kubectl("delete", "srtjob", "again", "-n", stage.namespace, "--wait=false")
    stage.swept(lambda: stage.names("srtjobs") == [], "the first one is gone")
    stage.apply("again")
    uid = stage.job("again")["metadata"]["uid"]
    stage.swept(lambda: stage.pods_are_of(uid, 1), "pods of the first one are gone")
    stage.run_until_training("again")
    status = stage.job("again")["status"]
    assert (status["phase"], status["progress"]["step"]) == ("Running", 0)
