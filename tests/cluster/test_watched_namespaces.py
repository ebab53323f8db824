"""A namespace of ``watchNamespaces`` loses its rights or is deleted: the operator goes on for the
others, and for this one when it is back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.chart_access import grant
from support.cluster import ControlPlane
from support.operator_process import Home, OperatorProcess, wait_for
from support.redis_server import RedisServer
from support.stage import Stage
from support.wire import Wire

pytestmark = pytest.mark.timeout(900)

HOME, KEPT, LOST = "watching", "kept-team", "lost-team"
VALUES = {"watchNamespaces": [KEPT, LOST]}
GIVEN_UP_SECONDS = 60.0
"""As kopf is set by itself, a refused watch gives up after 54 s and takes all others with it."""


@pytest.fixture
def operator(plane: ControlPlane, tmp_path: Path) -> Iterator[tuple[OperatorProcess, Wire]]:
    """One that looks after two namespaces, and its connection."""
    for namespace in (HOME, KEPT, LOST):
        plane.kubectl("create", "namespace", namespace)
    with RedisServer.started() as redis, Wire.to(plane.port) as wire:
        process = OperatorProcess(plane, tmp_path, redis.url, home=Home(HOME, (KEPT, LOST)))
        file = Path(process.variables["KUBECONFIG"])
        file.write_text(file.read_text().replace(f":{plane.port}", f":{wire.port}"))
        process.start()
        try:
            process.wait_until_up()
            yield process, wire
        finally:
            process.stop()


def begin_watches_anew(operator: OperatorProcess, wire: Wire) -> None:
    """As the API server has them do every few minutes."""
    wire.cut()
    wait_for(lambda: "ClientConnectorError" in operator.log(), "a watch that is cut off")
    wire.mend()


def test_a_namespace_that_is_lost_costs_the_others_nothing_and_may_come_back(
    plane: ControlPlane, operator: tuple[OperatorProcess, Wire]
) -> None:
    process, wire = operator
    kept, lost = Stage(plane, KEPT), Stage(plane, LOST)
    for stage in (kept, lost):
        stage.apply("before")
        wait_for(lambda: stage.names("treecaches"), "its cache")  # noqa: B023 - called at once
    plane.kubectl("delete", "rolebinding", "srt-operator", "-n", LOST)
    begin_watches_anew(process, wire)
    wait_for(lambda: "cannot watch resource" in process.log(), "a watch that is refused")
    time.sleep(GIVEN_UP_SECONDS)
    kept.apply("during")
    wait_for(lambda: len(kept.names("treecaches")) == 2, "the others are looked after")
    assert process.probe("readyz") == (200, "ok")
    grant(plane, HOME, VALUES)
    lost.apply("after")
    wait_for(lambda: "treecache.srt-rl.dev/after" in lost.names("treecaches"), "it is back")


def test_a_namespace_that_is_gone_at_the_start_is_looked_after_when_it_comes(
    plane: ControlPlane, tmp_path: Path
) -> None:
    names = ("late-home", "early-team", "late-team")
    for namespace in names:
        plane.kubectl("create", "namespace", namespace)
    home, early, late = names
    with RedisServer.started() as redis:
        process = OperatorProcess(plane, tmp_path, redis.url, home=Home(home, (early, late)))
        plane.kubectl("delete", "namespace", late)
        process.start()
        try:
            process.wait_until_up()
            Stage(plane, early).apply("sums")
            wait_for(lambda: Stage(plane, early).names("treecaches"), "the others")
            wait_for(
                lambda: "srt_operator_forbidden_namespaces 1.0" in process.probe("metrics")[1],
                "a metric that tells of it",
            )
            assert f'"namespace": "{late}"' in process.log()
            plane.kubectl("create", "namespace", late)
            grant(plane, home, {"watchNamespaces": [early, late]})
            Stage(plane, late).apply("sums")
            wait_for(lambda: Stage(plane, late).names("treecaches"), "it is back")
            wait_for(
                lambda: "srt_operator_forbidden_namespaces 0.0" in process.probe("metrics")[1],
                "the metric says so",
            )
        finally:
            assert process.stop() == 0
