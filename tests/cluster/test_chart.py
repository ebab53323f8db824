"""The chart on a real API server: every object is taken, every pod keeps to the restricted
standard, and the operator's account may do what its README says and nothing that makes it more.
"""

from __future__ import annotations

import pytest
import yaml

from support.cluster import CommandError, ControlPlane
from support.helm import Object, pods, render

SYSTEM, JOBS = "srt-system", "chart-jobs"
OPERATOR = f"system:serviceaccount:{SYSTEM}:srt-operator"
ALLOWED = (
    "list srtjobs.srt-rl.dev",
    "patch srtjobs.srt-rl.dev/status",
    "watch pods",
    "delete pods",
    "create jobs.batch",
    "patch statefulsets.apps",
    "create secrets",
    "create services",
    "watch services",
    "patch poddisruptionbudgets.policy",
    "list poddisruptionbudgets.policy",
    "create events",
)
REFUSED = (
    "get secrets",
    "list secrets",
    "watch secrets",
    "delete secrets",
    "create pods",
    "create pods/exec",
    "create pods/ephemeralcontainers",
    "get pods/log",
    "create deployments.apps",
    "patch deployments.apps",
    "create daemonsets.apps",
    "create serviceaccounts",
    "create serviceaccounts/token",
    "create roles.rbac.authorization.k8s.io",
    "create rolebindings.rbac.authorization.k8s.io",
    "create clusterrolebindings.rbac.authorization.k8s.io",
    "escalate clusterroles.rbac.authorization.k8s.io",
    "bind clusterroles.rbac.authorization.k8s.io",
    "impersonate users",
    "list nodes",
    "patch namespaces",
    "create persistentvolumeclaims",
    "patch customresourcedefinitions.apiextensions.k8s.io",
    "create validatingwebhookconfigurations.admissionregistration.k8s.io",
    "delete leases.coordination.k8s.io",
)
PROFILES: dict[str, Object] = {
    "default": {},
    "gpu": {"profile": "gpu"},
    "one namespace": {"watchNamespaces": [JOBS]},
    "persistent": {"redis": {"persistence": {"enabled": True}}},
}


@pytest.fixture(scope="module")
def server(custom_resources: ControlPlane) -> ControlPlane:
    """Both namespaces, the operator's under the restricted standard, with accounts and roles."""
    for namespace in (SYSTEM, JOBS):
        custom_resources.kubectl("create", "namespace", namespace)
    restricted = "pod-security.kubernetes.io/enforce=restricted"
    custom_resources.kubectl("label", "namespace", SYSTEM, restricted)
    custom_resources.kubectl("create", "serviceaccount", "default", "--namespace", SYSTEM)
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    for found in render():
        if found["kind"] in kinds:
            custom_resources.apply(found)
    return custom_resources


def may(server: ControlPlane, what: str, namespace: str) -> bool:
    verb, _, resource = what.partition(" ")
    kind, _, part = resource.partition("/")
    question = ("auth", "can-i", verb, kind, f"--as={OPERATOR}", "--namespace", namespace)
    try:
        server.kubectl(*question, *([f"--subresource={part}"] if part else []))
    except CommandError as error:
        assert "doesn't have a resource type" not in error.stderr, error
        return False
    return True


@pytest.mark.parametrize("profile", PROFILES)
def test_every_object_is_taken(server: ControlPlane, profile: str) -> None:
    objects = render(PROFILES[profile] or None)
    assert len(objects) > 10
    text = yaml.safe_dump_all(objects)
    server.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "persistent"])
def test_every_pod_keeps_to_the_restricted_standard(server: ControlPlane, profile: str) -> None:
    found = pods(render(PROFILES[profile] or None))
    assert {"Deployment/srt-operator", "StatefulSet/srt-redis", "Pod/srt-test"} <= found.keys()
    for name, template in found.items():
        spec = template["spec"] | {"restartPolicy": "Always"}
        spec["automountServiceAccountToken"] = False
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "template", "namespace": SYSTEM},
            "spec": spec,
        }
        text = yaml.safe_dump(pod)
        try:
            server.kubectl("create", "--dry-run=server", "-f", "-", stdin=text)
        except CommandError as error:
            pytest.fail(f"{name}: {error.stderr}")


@pytest.mark.parametrize("what", ALLOWED)
def test_the_operator_may(server: ControlPlane, what: str) -> None:
    assert may(server, what, JOBS)


@pytest.mark.parametrize("what", REFUSED)
def test_the_operator_may_not(server: ControlPlane, what: str) -> None:
    assert not may(server, what, JOBS)


def test_the_operator_elects_in_its_own_namespace(server: ControlPlane) -> None:
    assert may(server, "create leases.coordination.k8s.io", SYSTEM)
    assert not may(server, "create leases.coordination.k8s.io", JOBS)
