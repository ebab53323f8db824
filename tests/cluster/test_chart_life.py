"""Releases of the chart on a real control plane, with real helm: upgraded from an earlier chart,
uninstalled while jobs live, installed again under another name. No pod starts; what a hook's pod
would run is run with its account.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import chart_life
from support.cluster import CommandError, ControlPlane, apply_definitions
from support.helm import CHART
from support.jobs import JOB

pytestmark = pytest.mark.timeout(900)

DEFINITIONS = ("srtjobs.srt-rl.dev", "rolloutpools.srt-rl.dev", "treecaches.srt-rl.dev")
FINALIZER = "srt-rl.dev/cleanup"
LEFT = "all,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,pdb,leases,pvc"
CLUSTER_WIDE = "clusterroles,clusterrolebindings"


@pytest.fixture
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Nobody has ever installed anything here; afterwards there are only the definitions."""
    forget_definitions(control_plane)
    yield control_plane
    for found in yaml.safe_load(control_plane.helm("list", "--all-namespaces", "-o", "yaml")):
        where = ("--namespace", found["namespace"])
        control_plane.helm("uninstall", found["name"], *where, "--no-hooks")
    forget_definitions(control_plane)
    apply_definitions(control_plane)


def forget_definitions(plane: ControlPlane) -> None:
    """With every job and cache, of which no operator knows."""
    there = " ".join(plane.names("crds"))
    for definition in (each for each in DEFINITIONS if each in there):
        for left in plane.get(definition, "--all-namespaces")["items"]:
            release(plane, definition, left["metadata"]["name"], left["metadata"]["namespace"])
    plane.kubectl("delete", "crds", *DEFINITIONS, "--ignore-not-found", "--timeout=60s")


def release(plane: ControlPlane, kind: str, name: str, namespace: str) -> None:
    """Take the finalizer off."""
    nothing = '{"metadata":{"finalizers":[]}}'
    plane.kubectl("patch", kind, name, "-n", namespace, "--type=merge", "-p", nothing)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """An earlier version of the chart."""
    return chart_life.chart_before(tmp_path)


def install(plane: ControlPlane, name: str, *values: str, chart: Path = CHART) -> None:
    """A release in a namespace of its own name."""
    where = ("--namespace", name, "--create-namespace")
    plane.helm("install", name, str(chart), *where, *(f"--set={value}" for value in values))


def definition(plane: ControlPlane) -> dict[str, Any]:
    return plane.get("crd", DEFINITIONS[0])


def has_the_added_field(plane: ControlPlane) -> bool:
    [version] = definition(plane)["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return chart_life.ADDED_FIELD in spec


def owner(plane: ControlPlane) -> str:
    annotations = definition(plane)["metadata"]["annotations"]
    return str(annotations["meta.helm.sh/release-name"])


def submit(plane: ControlPlane, name: str) -> str:
    """A job that an operator has seen; its uid."""
    document = yaml.safe_load(JOB)
    document["metadata"] = {"name": name, "namespace": "default", "finalizers": [FINALIZER]}
    return str(plane.apply(document)["metadata"]["uid"])


def what_is_left(plane: ControlPlane, name: str) -> set[str]:
    found = {each for each in plane.names(CLUSTER_WIDE) if f"/{name}-" in each}
    return found | {
        each
        for each in plane.names(LEFT, "--namespace", name)
        if not each.endswith(("/kube-root-ca.crt", "/default"))
    }


def test_an_upgrade_keeps_passwords_and_jobs_and_brings_definitions(
    plane: ControlPlane, before: Path
) -> None:
    install(plane, "grows", chart=before)
    passwords = plane.get("secret", "grows-redis", "-n", "grows")["data"]
    uid = submit(plane, "survives")
    assert not has_the_added_field(plane)
    upgrade = ("upgrade", "grows", str(CHART), "--namespace", "grows")
    plane.helm(*upgrade, "--reset-then-reuse-values", "--set", "operator.replicas=3")
    after = plane.get("secret", "grows-redis", "-n", "grows")["data"]
    assert after == passwords
    assert has_the_added_field(plane)
    assert plane.get("srtjob", "survives")["metadata"]["uid"] == uid
    assert plane.get("deployment", "grows-operator", "-n", "grows")["spec"]["replicas"] == 3
    plane.helm(*upgrade, "--reset-then-reuse-values")
    assert plane.get("deployment", "grows-operator", "-n", "grows")["spec"]["replicas"] == 3


def test_an_uninstall_with_live_jobs_ends_and_leaves_jobs_that_can_be_deleted(
    plane: ControlPlane, tmp_path: Path
) -> None:
    install(plane, "first", f"hooks.timeoutSeconds={chart_life.SECONDS}")
    operator_left = ("secret", "generic", "srt-operator-key", "--namespace", "first")
    plane.kubectl("create", *operator_left)
    uid = submit(plane, "lives")
    with chart_life.uninstalling(plane, "first", "first"):
        chart_life.play_hook(plane, "first", "first", tmp_path)
    job = plane.get("srtjob", "lives")["metadata"]
    assert (job["uid"], job.get("finalizers", [])) == (uid, [])
    assert set(plane.names("crds")) >= {
        f"customresourcedefinition.apiextensions.k8s.io/{name}" for name in DEFINITIONS
    }
    plane.until(lambda: what_is_left(plane, "first") == set(), "an end of what was installed")
    plane.kubectl("delete", "srtjob", "lives", "--timeout=30s")


def test_another_release_takes_over_the_definitions_of_one_that_is_gone(
    plane: ControlPlane, before: Path
) -> None:
    install(plane, "old", chart=before)
    uid = submit(plane, "outlives")
    plane.helm("uninstall", "old", "--namespace", "old")
    install(plane, "new")
    assert (owner(plane), has_the_added_field(plane)) == ("new", True)
    assert plane.get("srtjob", "outlives")["metadata"]["uid"] == uid
    plane.helm("upgrade", "new", str(CHART), "--namespace", "new")
    assert DEFINITIONS[0] in plane.helm("get", "manifest", "new", "--namespace", "new")
    assert owner(plane) == "new"
    plane.helm("uninstall", "new", "--namespace", "new", "--no-hooks")
    assert plane.get("srtjob", "outlives")["metadata"]["uid"] == uid


def test_definitions_that_somebody_applied_are_taken_over(plane: ControlPlane) -> None:
    folder = CHART.parent / "srt-crds" / "templates"
    plane.kubectl("apply", "--server-side", "-f", str(folder))
    install(plane, "adopts")
    assert owner(plane) == "adopts"


def test_the_definitions_of_a_release_that_lives_are_not_taken(plane: ControlPlane) -> None:
    install(plane, "here")
    with pytest.raises(CommandError, match='must equal "there": current value is "here"'):
        install(plane, "there")
    install(plane, "there", "crds.enabled=false")
    assert owner(plane) == "here"
