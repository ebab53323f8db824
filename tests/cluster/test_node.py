"""The harness: pods run on a real node, are found by name, and the machine stays as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from support import cluster_tools
from support.cluster_images import base_image
from support.cluster_node import Node

SERVER = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000, bind='0.0.0.0')"
ASK = (
    "import urllib.request as u; "
    "print(u.urlopen('http://hello.default.svc:8000/etc/', timeout=5).status)"
)


@pytest.fixture(scope="module")
def image(node: Node) -> str:
    reference = "localhost/python:1"
    archive = node.place.state / "python.tar"
    node.import_image(base_image(cluster_tools.cache(), reference, archive))
    return reference


def pod(name: str, image: str, code: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": image, "command": ["python3", "-c", code]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0} | spec,
    }


def test_a_pod_is_found_by_the_name_of_its_service(node: Node, image: str) -> None:
    node.apply(pod("hello", image, SERVER))
    ports = {"selector": {"app": "hello"}, "ports": [{"port": 8000}]}
    node.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hello"}, "spec": ports}
    )
    node.kubectl("wait", "--for=condition=Ready", "pod/hello", "--timeout=60s")
    node.until(
        lambda: node.kubectl("exec", "hello", "--", "python3", "-c", ASK).strip() == "200",
        "an answer of the service",
    )


def test_a_container_that_fails_says_so(node: Node, image: str) -> None:
    node.apply(pod("fails", image, "raise SystemExit(3)", restartPolicy="Never"))
    node.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/fails", "--timeout=60s")
    [status] = node.get("pod/fails")["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 3


def test_the_machine_keeps_its_name_and_network(node: Node) -> None:
    inside = node.run("ip", "-o", "addr")
    assert "10.89.0.1" in inside
    assert node.run("hostname").strip() == "node-0" != os.uname().nodename
    assert "node0" not in Path("/proc/net/dev").read_text()


def test_a_node_leaves_nothing(programs: Path, tmp_path: Path) -> None:
    if sentence := cluster_tools.missing_for_node():
        pytest.skip(sentence)
    with Node.up(programs, tmp_path) as short_lived:
        first = int((tmp_path / "pid").read_text())
        groups = (tmp_path / "cgroups").read_text().split()
        assert groups
        assert short_lived.names("nodes") == ["node/node-0"]
    assert not Path(f"/proc/{first}").exists()
    assert not [group for group in groups if Path(group).exists()]
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
