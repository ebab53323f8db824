"""The API server goes away, forgets, or refuses; replicas are cut off or frozen. Nothing is lost or
made twice, at most one replica acts at any time, and probes tell the truth.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from srt_operator.handlers import HUNG_SECONDS
from support.cluster import ControlPlane, apply_definitions
from support.operator_process import START_SECONDS, OperatorProcess, wait_for
from support.redis_server import RedisServer
from support.stage import Stage
from support.wire import Wire

OUTAGE_SECONDS = 30.0
CHILDREN = "statefulsets,jobs,services,secrets,poddisruptionbudgets,pods,treecaches,rolloutpools"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer.started() as server:
        yield server


class Replicas:
    """Operators that are started again when they leave, as a kubelet does."""

    def __init__(self, *operators: OperatorProcess) -> None:
        self.operators = operators
        self.exits: list[int] = []
        self.max_leading = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_after)

    @classmethod
    @contextmanager
    def running(cls, *operators: OperatorProcess) -> Iterator[Replicas]:
        replicas = cls(*operators)
        for operator in operators:
            operator.start()
        replicas._thread.start()
        try:
            for operator in operators:
                operator.wait_until_up()
            yield replicas
        finally:
            replicas._is_over.set()
            replicas._thread.join()
            for operator in operators:
                operator.stop()

    def _look_after(self) -> None:
        while not self._is_over.wait(0.1):
            for operator in self.operators:
                if (code := operator.exit_status()) is not None:
                    self.exits.append(code)
                    operator.start()
            leading = sum(operator.is_leading() for operator in self.operators)
            self.max_leading = max(self.max_leading, leading)

    def leader(self) -> OperatorProcess:
        wait_for(lambda: any(o.is_leading() for o in self.operators), "a leader")
        return next(o for o in self.operators if o.is_leading())

    def logs(self) -> str:
        return "".join(operator.log() for operator in self.operators)


def uids(stage: Stage) -> dict[str, str]:
    """Everything of the namespace, by name."""
    items = stage.plane.get(CHILDREN, "-n", stage.namespace)["items"]
    return {f"{i['kind']}/{i['metadata']['name']}": i["metadata"]["uid"] for i in items}


@contextmanager
def stopped(plane: ControlPlane) -> Iterator[None]:
    """The API server is killed; another one starts on the same etcd and port."""
    plane.processes.stop("apiserver")
    yield
    plane.start_api_server()


@contextmanager
def frozen(plane: ControlPlane) -> Iterator[None]:
    """The API server takes connections and answers nobody."""
    plane.processes.freeze("apiserver")
    yield
    plane.processes.thaw("apiserver")


@pytest.mark.parametrize("outage", [stopped, frozen])
def test_an_api_server_that_is_away_for_half_a_minute_costs_nothing(
    plane: ControlPlane, redis: RedisServer, tmp_path: Path, outage: Any
) -> None:
    name = f"outage-{outage.__name__}"
    plane.kubectl("create", "namespace", name)
    stage = Stage(plane, name)
    candidates = [
        OperatorProcess(plane, tmp_path, redis.url, identity=f"operator-{n}") for n in (1, 2)
    ]
    with Replicas.running(*candidates) as replicas:
        stage.apply("job")
        stage.run_until_training("job")
        before, leader = uids(stage), replicas.leader()
        with outage(plane):
            began = time.monotonic()
            wait_for(lambda: not leader.is_leading(), "the leader gives up")
            assert time.monotonic() - began < 15, "another could have taken the lease"
            wait_for(
                lambda: leader.probe("readyz")[0] == 503, "a replica that says it is not ready"
            )
            assert "API server has not answered" in leader.probe("readyz")[1]
            time.sleep(max(0.0, began + OUTAGE_SECONDS - time.monotonic()))
        after = replicas.leader()
        wait_for(lambda: after.probe("readyz") == (200, "ok"), "a leader that is ready")
        assert uids(stage) == before
        assert stage.job("job")["status"]["phase"] == "Running"
        stage.kubelet.end(0, role="trainer")
        stage.until("srtjob", "job", "Complete")
        assert set(replicas.exits) == {1}
        assert replicas.max_leading == 1
        assert "Traceback" not in replicas.logs()


def test_a_leader_that_is_cut_off_gives_up_before_the_other_acts(
    plane: ControlPlane, redis: RedisServer, tmp_path: Path
) -> None:
    with Wire.to(plane.port) as wire:
        first = OperatorProcess(plane, tmp_path, redis.url, identity="operator-1")
        go_through(first, wire, plane)
        first.start()
        first.wait_until_up()
        wait_for(first.is_leading, "the first one leads")
        with OperatorProcess.started(plane, tmp_path, redis.url, identity="operator-2") as second:
            wire.cut()
            wait_for(lambda: first.exit_status() is not None, "the first one leaves")
            assert first.exit_status() == 1
            assert not second.is_leading()
            wait_for(second.is_leading, "the second one leads")


def test_a_leader_that_was_frozen_does_nothing_when_it_thaws(
    plane: ControlPlane, redis: RedisServer, tmp_path: Path
) -> None:
    first = OperatorProcess(plane, tmp_path, redis.url, identity="operator-1")
    first.start()
    first.wait_until_up()
    wait_for(first.is_leading, "the first one leads")
    with OperatorProcess.started(plane, tmp_path, redis.url, identity="operator-2") as second:
        first.freeze()
        wait_for(second.is_leading, "the second one leads")
        first.thaw()
        wait_for(lambda: first.exit_status() is not None, "the first one leaves", seconds=10)
        assert first.exit_status() == 1
        assert "the lease is lost" in first.log()
        assert second.is_leading()


def test_watches_that_expired_miss_nothing(
    programs: Path, redis: RedisServer, tmp_path: Path
) -> None:
    state = tmp_path / "plane"
    state.mkdir()
    with (
        ControlPlane.started(programs, state, has_watch_cache=False) as plane,
        Wire.to(plane.port) as wire,
    ):
        apply_definitions(plane)
        plane.kubectl("create", "namespace", "expired")
        stage = Stage(plane, "expired")
        operator = OperatorProcess(plane, tmp_path, redis.url)
        go_through(operator, wire, plane)
        with Replicas.running(operator) as replicas:
            stage.apply("kept")
            wait_for(lambda: stage.names("statefulsets"), "its cache")
            before = uids(stage)
            wire.cut()
            plane.kubectl("delete", "statefulset,service,secret", "--all", "-n", "expired")
            stage.apply("new")
            plane.compact()
            wire.mend()
            wait_for(lambda: len(stage.names("treecaches")) == 2, "what was made meanwhile is seen")
            wait_for(lambda: before.keys() <= uids(stage).keys(), "what went meanwhile is back")
            assert replicas.exits == [], "it had to see it as it was, not as one that begins"
            assert "Traceback" not in operator.log()


def test_a_definition_that_goes_ends_the_operator_and_is_watched_when_it_is_back(
    programs: Path, redis: RedisServer, tmp_path: Path
) -> None:
    state = tmp_path / "plane"
    state.mkdir()
    with ControlPlane.started(programs, state) as plane:
        apply_definitions(plane)
        with OperatorProcess.started(plane, tmp_path, redis.url) as operator:
            wait_for(operator.is_leading, "it leads")
            plane.kubectl("delete", "crd", "treecaches.srt-rl.dev")
            wait_for(
                lambda: operator.exit_status() is not None,
                "an end, for it hears of nothing any more",
                seconds=HUNG_SECONDS + 15,
            )
            operator.start()
            wait_for(operator.is_leading, "it leads again", seconds=START_SECONDS)
            wait_for(lambda: "cannot be listed" in operator.probe("readyz")[1], "a sentence")
            apply_definitions(plane)
            wait_for(lambda: operator.probe("readyz") == (200, "ok"), "it is ready")
            stage = Stage(plane, "default")
            stage.apply("sums")
            wait_for(
                lambda: any("tree-cache" in name for name in stage.names("statefulsets")),
                "pods of a cache, which a watch has told of",
            )


def test_a_replica_that_is_refused_its_lease_is_not_ready(
    plane: ControlPlane, redis: RedisServer, tmp_path: Path
) -> None:
    operator = OperatorProcess(plane, tmp_path, redis.url)
    operator.variables["KUBECONFIG"] = str(plane.place.state / "pki" / "proxy.kubeconfig")
    operator.start()
    try:
        wait_for(lambda: operator.probe("readyz")[0] == 503, "a refusal", seconds=START_SECONDS)
        wait_for(lambda: "the lease is refused" in operator.probe("readyz")[1], "a sentence")
        assert "cannot get resource" in operator.probe("readyz")[1]
        assert operator.probe("livez") == (200, "ok")
    finally:
        operator.stop()


def go_through(operator: OperatorProcess, wire: Wire, plane: ControlPlane) -> None:
    """Have an operator reach the API server by way of a wire."""
    file = Path(operator.variables["KUBECONFIG"])
    file.write_text(file.read_text().replace(f":{plane.port}", f":{wire.port}"))
