"""Real clusters for the tests: an API server, a control plane, a node. One of each a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import cluster_tools
from support.cluster import ControlPlane, apply_definitions
from support.cluster_node import Node

TIMEOUT_SECONDS = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a level waits for its cluster."""
    for item in items:
        is_ours = Path(__file__).parent in item.path.parents
        if is_ours and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))


@pytest.fixture(scope="session")
def programs() -> Path:
    """Folder of the built programs."""
    if sentence := cluster_tools.missing_for_control_plane():
        pytest.skip(sentence)
    if not cluster_tools.is_built():
        pytest.skip("the programs of a cluster are not built; make test-cluster builds them")
    return cluster_tools.folder()


@pytest.fixture(scope="session")
def api_server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Level 1: etcd and API server. Nothing is reconciled."""
    with ControlPlane.started(programs, tmp_path_factory.mktemp("api-server")) as plane:
        yield plane


@pytest.fixture(scope="session")
def custom_resources(api_server: ControlPlane) -> ControlPlane:
    """Level 1 with our resources."""
    apply_definitions(api_server)
    return api_server


@pytest.fixture(scope="session")
def control_plane(
    programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """Level 2: with controller-manager and scheduler. No pod ever starts."""
    state = tmp_path_factory.mktemp("control-plane")
    with ControlPlane.started(programs, state, has_controllers=True) as plane:
        yield plane


@pytest.fixture(scope="session")
def plane(control_plane: ControlPlane) -> ControlPlane:
    """Level 2 with our resources."""
    apply_definitions(control_plane)
    return control_plane


@pytest.fixture(scope="session")
def node(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Level 3: pods run, Services answer, names resolve."""
    if sentence := cluster_tools.missing_for_node():
        pytest.skip(sentence)
    with Node.up(programs, tmp_path_factory.mktemp("node")) as node:
        yield node
