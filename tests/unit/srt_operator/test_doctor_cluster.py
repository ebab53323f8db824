"""What the answers of a cluster mean to `srt doctor`: how bad it is, and one thing to do."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from srt_operator.constants import Kind
from srt_operator.crds import DEFINITIONS, document
from srt_operator.doctor import cluster
from srt_operator.doctor.base import Check, Level, has_failed

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def known() -> dict[Kind, Any]:
    return {definition.kind: document(definition) for definition in DEFINITIONS}


def lease(holder: str, renewed: str) -> dict[str, Any]:
    return {"spec": {"holderIdentity": holder, "renewTime": renewed}}


def operator(tag: str) -> dict[str, Any]:
    told = [
        {"name": "SRT_OPERATOR_IMAGE_TRAINER", "value": f"registry:5000/srt-trainer:{tag}-gpu"},
        {"name": "SRT_OPERATOR_IMAGE_RUNAHEAD", "value": "srt-runahead@sha256:0"},
        {"name": "SRT_OPERATOR_IMAGE_PULL_POLICY", "value": "Always"},
    ]
    container = {"image": "registry:5000/srt-operator:1", "env": told}
    return {"spec": {"template": {"spec": {"containers": [container]}}}}


@pytest.mark.parametrize(
    ("version", "level"),
    [("v1.36.0", Level.OK), ("v1.33.2-gke.1", Level.OK), ("v1.32.9", Level.FAIL)],
)
def test_an_api_server_must_be_new_enough(version: str, level: Level) -> None:
    assert cluster.server(version)[0] is level


def test_resources_must_be_there_and_should_be_ours() -> None:
    assert cluster.definitions(known())[0] is Level.OK
    level, text = cluster.definitions(known() | {Kind.TREE_CACHE: None})
    assert level is Level.FAIL
    assert text.startswith("treecaches missing")
    older = copy.deepcopy(known())
    older[Kind.SRT_JOB]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"] = {}
    level, text = cluster.definitions(older)
    assert level is Level.WARN
    assert text.startswith("srtjobs of another version")


@pytest.mark.parametrize(
    ("found", "level", "words"),
    [
        (None, Level.FAIL, "--operator-namespace"),
        (lease("", "2025-12-31T23:59:58Z"), Level.FAIL, "nobody leads in srt-system"),
        (lease("a-0", "2025-12-31T23:58:00.000001Z"), Level.FAIL, "a-0 led until 120 s ago"),
        (lease("a-0", "2025-12-31T23:59:58.000001Z"), Level.OK, "a-0 leads, its Lease is 2 s old"),
    ],
)
def test_a_leader_must_have_renewed_its_lease(found: Any, level: Level, words: str) -> None:
    said = cluster.leader(found, "srt-system", NOW)
    assert said[0] is level
    assert words in said[1]


def test_what_the_operator_said_of_redis_counts_for_a_while() -> None:
    event = {
        "reason": "RedisUnavailable",
        "message": "cannot be removed",
        "lastTimestamp": "2025-12-31T23:59:00Z",
        "involvedObject": {"kind": "SRTJob", "name": "sums"},
    }
    level, text = cluster.redis([event], [], NOW)
    assert level is Level.FAIL
    assert "60 s ago of SRTJob sums: cannot be removed" in text
    assert cluster.redis([event], [], NOW + 3600)[0] is Level.OK
    there = {"metadata": {"name": "srt-redis", "namespace": "srt-system"}, "status": {}}
    assert cluster.redis([], [there], NOW)[0] is Level.FAIL
    assert cluster.redis([], [there | {"status": {"readyReplicas": 1}}], NOW)[0] is Level.OK


@pytest.mark.parametrize(
    ("refused", "level"),
    [([], Level.OK), (["get pods/log"], Level.WARN), (["create srtjobs"], Level.FAIL)],
)
def test_a_caller_must_be_allowed_to_make_jobs(refused: list[str], level: Level) -> None:
    said = cluster.permissions(refused, "team")
    assert said[0] is level
    assert all(what in said[1] for what in refused)


def test_gpus_are_counted_whoever_made_them() -> None:
    nodes: list[dict[str, Any]] = [
        {"status": {"allocatable": {"nvidia.com/gpu": "8", "cpu": "64"}}},
        {"status": {"allocatable": {"nvidia.com/gpu": "4"}}},
        {"status": {"allocatable": {"amd.com/gpu": "0"}}},
        {},
    ]
    assert cluster.accelerators(nodes) == (Level.OK, "12 nvidia.com/gpu on 2 nodes")
    assert cluster.accelerators(nodes[2:])[0] is Level.WARN


def test_a_namespace_should_enforce_pod_security() -> None:
    labelled = {"metadata": {"labels": {cluster.POD_SECURITY: "restricted"}}}
    assert cluster.pod_security(labelled, "team") == (Level.OK, "team enforces restricted")
    assert cluster.pod_security({"metadata": {}}, "team")[0] is Level.WARN
    assert cluster.pod_security(None, "team")[0] is Level.FAIL


def test_images_must_be_pulled_and_should_be_of_one_version() -> None:
    assert cluster.images([operator("1")], [])[0] is Level.OK
    level, text = cluster.images([operator("2")], [])
    assert level is Level.WARN
    assert "srt-trainer:2-gpu" in text
    waiting = {"image": "srt-rollout:1", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    pod = {"metadata": {"name": "sums-0"}, "status": {"containerStatuses": [waiting]}}
    level, text = cluster.images([], [pod])
    assert level is Level.FAIL
    assert "sums-0 cannot pull srt-rollout:1" in text


def test_only_a_failure_fails() -> None:
    assert not has_failed([Check("a", Level.OK, ""), Check("b", Level.WARN, "")])
    assert has_failed([Check("a", Level.FAIL, "")])
