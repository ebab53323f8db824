"""The chart on a real API server: every object is taken, and every pod keeps to the restricted
standard. What its accounts may do is in test_operator_rights.
"""

from __future__ import annotations

import pytest
import yaml

from support.cluster import CommandError, ControlPlane
from support.helm import Object, of_kind, pods, render

SYSTEM, JOBS = "srt-system", "chart-jobs"
PROFILES: dict[str, Object] = {
    "default": {},
    "gpu": {"profile": "gpu"},
    "one namespace": {"watchNamespaces": [JOBS]},
    "persistent": {"redis": {"persistence": {"enabled": True}}},
}


@pytest.fixture(scope="module")
def server(custom_resources: ControlPlane) -> ControlPlane:
    """Both namespaces, the operator's under the restricted standard, with the accounts of pods."""
    for namespace in (SYSTEM, JOBS):
        custom_resources.kubectl("create", "namespace", namespace)
    restricted = "pod-security.kubernetes.io/enforce=restricted"
    custom_resources.kubectl("label", "namespace", SYSTEM, restricted)
    custom_resources.kubectl("create", "serviceaccount", "default", "--namespace", SYSTEM)
    for account in of_kind(render(), "ServiceAccount"):
        custom_resources.apply(account)
    return custom_resources


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
