"""What the operator made and somebody else changes or deletes by hand is put back, and people are
told; what others add to it stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.cluster import ControlPlane
from support.operator_process import OperatorProcess, wait_for
from support.redis_server import RedisServer
from support.stage import Stage

JOB = "drift"


@pytest.fixture(scope="module")
def stage(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A job that trains."""
    plane.kubectl("create", "namespace", "drifting")
    stage = Stage(plane, "drifting")
    folder = tmp_path_factory.mktemp("operator")
    with (
        RedisServer.started() as redis,
        OperatorProcess.started(plane, folder, redis.url) as operator,
    ):
        stage.apply(JOB)
        stage.run_until_training(JOB)
        yield stage
        assert "Traceback" not in operator.log()


def found(stage: Stage, kind: str, name: str) -> dict[str, Any]:
    return stage.plane.get(kind, name, "-n", stage.namespace)


def change(stage: Stage, kind: str, name: str, patch: dict[str, Any]) -> None:
    stage.plane.kubectl(
        "patch", kind, name, "-n", stage.namespace, "--type=merge", "-p", json.dumps(patch)
    )


@pytest.mark.parametrize(
    ("kind", "name", "patch"),
    [
        ("statefulset", "drift-rollout", {"spec": {"replicas": 5}}),
        ("statefulset", "drift-tree-cache", {"metadata": {"labels": {"srt-rl.dev/role": "x"}}}),
        ("service", "drift-rollout", {"spec": {"selector": {"srt-rl.dev/pool": "other"}}}),
        ("rolloutpool", "drift", {"spec": {"drainSeconds": 1}}),
        ("job", "drift-trainer", {"spec": {"parallelism": 0}}),
        ("poddisruptionbudget", "drift-tree-cache", {"spec": {"maxUnavailable": 0}}),
    ],
)
def test_a_change_is_put_back(stage: Stage, kind: str, name: str, patch: dict[str, Any]) -> None:
    before = found(stage, kind, name)
    change(stage, kind, name, patch)
    [(part, fields)] = patch.items()
    [field] = fields

    def is_back() -> bool:
        return bool(found(stage, kind, name)[part][field] == before[part][field])

    wait_for(is_back, f"{field} of {kind} {name} is back")
    assert found(stage, kind, name)["metadata"]["uid"] == before["metadata"]["uid"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("service", "drift-rollout"),
        ("service", "drift-trainer"),
        ("poddisruptionbudget", "drift-tree-cache"),
        ("statefulset", "drift-rollout"),
        ("treecache", "drift"),
    ],
)
def test_what_is_deleted_is_made_anew(stage: Stage, kind: str, name: str) -> None:
    uid = found(stage, kind, name)["metadata"]["uid"]
    stage.plane.kubectl("delete", kind, name, "-n", stage.namespace, "--wait=false")

    def is_new() -> bool:
        stage.kubelet.sweep()
        return bool(found(stage, kind, name)["metadata"]["uid"] != uid)

    wait_for(is_new, f"{kind} {name} is made anew")


def test_people_are_told_and_the_job_goes_on(stage: Stage) -> None:
    [pod] = stage.kubelet.pods(role="trainer")
    told = "somebody changed Service drift-trainer: it is again as this resource asks for"

    def messages() -> list[str]:
        events = stage.plane.get("events", "-n", stage.namespace)["items"]
        return [e["message"] for e in events if e["reason"] == "PutBack"]

    assert told not in messages()
    change(stage, "service", "drift-trainer", {"spec": {"publishNotReadyAddresses": False}})
    wait_for(lambda: told in messages(), "an event")
    stage.run_until_training(JOB)
    [after] = stage.kubelet.pods(role="trainer")
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert stage.until("srtjob", JOB, "Ready")["reason"] == "AllReady"


def test_what_others_add_stays_unless_it_makes_ours_invalid(stage: Stage) -> None:
    [ours] = found(stage, "service", "drift-rollout")["spec"]["ports"]
    theirs = {"port": 9}  # without a name it is refused beside ours
    patch = {"metadata": {"annotations": {"theirs": "yes"}}, "spec": {"ports": [theirs]}}
    change(stage, "service", "drift-rollout", patch)

    def is_back() -> bool:
        return bool(found(stage, "service", "drift-rollout")["spec"]["ports"] == [ours])

    wait_for(is_back, "our port is back, alone")
    assert found(stage, "service", "drift-rollout")["metadata"]["annotations"]["theirs"] == "yes"
