"""The harness: a real API server decides, and what it refuses is raised with its own words."""

from __future__ import annotations

import pytest

from support.cluster import CommandError, ControlPlane


def test_the_api_server_is_the_pinned_version(api_server: ControlPlane) -> None:
    version = api_server.kubectl("version")
    assert "Server Version: v1.36.3" in version


def test_an_object_is_stored_with_its_defaults(api_server: ControlPlane) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "stored"},
        "spec": {"ports": [{"port": 80}]},
    }
    assert api_server.apply(document)["spec"]["type"] == "ClusterIP"


def test_a_refusal_is_raised_with_its_sentence(api_server: ControlPlane) -> None:
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "Not_A_Name"}}
    with pytest.raises(CommandError, match="lowercase RFC 1123 label"):
        api_server.apply(document)
