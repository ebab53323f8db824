"""An installation from nothing to nothing: helm installs the suite on a real node, a job trains
with run-ahead and drafts that hit, the release is upgraded, tested and uninstalled; CRDs stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import cluster_service_images, cluster_tools
from support.bad_resources import changed
from support.cluster_node import Node

pytestmark = pytest.mark.timeout(1500)

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "srt"
TINY_MATH = ROOT / "docs" / "examples" / "tiny-math" / "job.yaml"
RELEASE, SYSTEM, JOBS = "srt", "srt-system", "team"
LEFT = "all,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,pdb,leases,pvc"
CLUSTER_WIDE = "clusterroles,clusterrolebindings"
NO_COMPILER = {"name": "TORCHDYNAMO_DISABLE", "value": "1"}
"""The base holds no C++ compiler, which torch would ask for on a CPU."""
SHORTER = {
    "metadata.namespace": JOBS,
    "spec.dataset.uri": "reasoning-gym://chain_sum?seed=1&size=4&max_digits=2",
    "spec.sampling.maxResponseTokens": 96,
    "spec.algorithm.steps": 20,
    "spec.algorithm.promptsPerStep": 4,
    "spec.algorithm.rolloutsPerPrompt": 8,
    "spec.evaluation": None,
    "spec.rollout.template.replicas": 1,
    "spec.rollout.template.engine.maxNumSeqs": 6,
    "spec.runAhead.chunkTokens": 16,
    "spec.runAhead.bubble.openAfterSeconds": 0.1,
    "spec.runAhead.bubble.minRemainingSeconds": 0.1,
}


@pytest.fixture(scope="module")
def images(node: Node, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("images")
    for archive in cluster_service_images.build_all(cluster_tools.cache(), folder):
        node.import_image(archive)
        archive.unlink()


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this site differs in: where images come from, and what pods mount."""
    places = cluster_service_images.host_places()
    registry, tag = cluster_service_images.REGISTRY, cluster_service_images.TAG
    document = {
        "image": {"registry": registry, "tag": tag},
        "operator": {"replicas": 1},
        "redis": {"image": {"repository": f"{registry}/valkey", "tag": tag}},
        "podDefaults": {"trainer": places, "rollout": places | {"env": [NO_COMPILER]}},
    }
    path = tmp_path_factory.mktemp("values") / "values.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def before(node: Node) -> set[str]:
    """Both namespaces, empty. That of jobs is not restricted: their pods mount a host's folders."""
    restricted = "pod-security.kubernetes.io/enforce=restricted"
    for namespace in (JOBS, SYSTEM):
        node.kubectl("create", "namespace", namespace)
    node.kubectl("label", "namespace", SYSTEM, restricted)
    return everything(node)


@pytest.fixture(scope="module")
def release(node: Node, images: None, values: Path, before: set[str]) -> Iterator[str]:
    arguments = ("--namespace", SYSTEM, "--values", str(values), "--wait", "--timeout", "180s")
    try:
        node.helm("install", RELEASE, str(CHART), *arguments)
    except BaseException:
        explain(node)
        raise
    yield RELEASE


def everything(node: Node) -> set[str]:
    """Names of all objects of both namespaces, and of what the chart makes for all of them."""
    found = set(node.names(CLUSTER_WIDE))
    for namespace in (JOBS, SYSTEM):
        found |= {f"{namespace}/{name}" for name in node.names(LEFT, "--namespace", namespace)}
    return {name for name in found if "/kube-root-ca.crt" not in name}


def explain(node: Node) -> None:
    """What one wants to know of pods that are not ready; pytest shows it with the failure."""
    for namespace in (JOBS, SYSTEM):
        for arguments in (("get", "pods,srt", "-o", "wide"), ("get", "events")):
            print(node.kubectl(*arguments, "--namespace", namespace))  # noqa: T201
        for pod in node.names("pods", "--namespace", namespace):
            logs = ("logs", pod, "--all-containers", "--prefix", "--tail=40")
            print(pod, node.kubectl(*logs, "--namespace", namespace, "--ignore-errors"))  # noqa: T201


def job() -> dict[str, Any]:
    """tiny-math, shortened."""
    document: dict[str, Any] = yaml.safe_load(TINY_MATH.read_text())
    for path, value in SHORTER.items():
        document = changed(document, path, value)
    return document


def test_a_job_completes_with_run_ahead_and_hits(node: Node, release: str) -> None:
    node.apply(job())
    where = ("--namespace", JOBS)
    try:
        complete = ("wait", "--for=condition=Complete", "srtjob/tiny-math", "--timeout=900s")
        node.kubectl(*complete, *where, seconds=930)
    except BaseException:
        explain(node)
        raise
    status = node.get("srtjob/tiny-math", *where)["status"]
    assert status["progress"]["step"] == SHORTER["spec.algorithm.steps"]
    assert status["runAhead"]["dispatched"] > 0, json.dumps(status)
    assert status["runAhead"]["tokens"] > 0, json.dumps(status)
    assert float(status["cache"]["hitRate"]) > 0, json.dumps(status)
    shown = node.kubectl("get", "srt", *where)
    assert "Complete" in shown, shown


def test_a_release_is_upgraded(node: Node, release: str, values: Path) -> None:
    arguments = ("--namespace", SYSTEM, "--values", str(values), "--set", "operator.replicas=2")
    node.helm("upgrade", release, str(CHART), *arguments, "--wait", "--timeout", "180s")
    operator = node.get(f"deployment/{release}-operator", "--namespace", SYSTEM)
    assert operator["status"]["readyReplicas"] == 2
    assert "tiny-math" in node.kubectl("get", "srtj", "--namespace", JOBS)


def test_a_release_tests_itself(node: Node, release: str) -> None:
    shown = node.helm("test", release, "--namespace", SYSTEM, "--logs", "--timeout", "120s")
    assert "Phase:          Succeeded" in shown, shown


def test_an_uninstalled_release_leaves_the_definitions_alone(
    node: Node, release: str, before: set[str]
) -> None:
    node.helm("uninstall", release, "--namespace", SYSTEM, "--wait", "--timeout", "180s")
    node.kubectl("delete", "srt", "--all", "--namespace", JOBS, "--timeout=60s")
    definitions = node.names("crds")
    assert len([name for name in definitions if name.endswith("srt-rl.dev")]) == 3
    node.until(lambda: everything(node) <= before, f"an end of {everything(node) - before}", 60)
