"""docker-compose.yml on a real docker daemon, with the images it names, built here: `up` trains
tiny-math to its end, what serves stays healthy, and `down -v` leaves nothing.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from srt_operator.layout import RunLayout
from srt_operator.tables import arm_rows
from support import cluster_tools, docker_daemon
from support.cluster_images import base_layer
from support.compose import ROOT, Compose
from support.docker_daemon import Daemon

BASE: Final = "localhost/base:1"
BUILD_SECONDS: Final = 1800.0
UP_SECONDS: Final = 600.0
RUN_SECONDS: Final = 3600.0
LOOK_SECONDS: Final = 2.0
STEPS: Final = 45
SERVING: Final = {"redis", "operator", "tree-cache-0", "rollout-0", "rollout-1"}
ALL: Final = SERVING | {"runahead-0", "runahead-1", "trainer"}
LOG: Final = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(2 * RUN_SECONDS)


@dataclass(frozen=True, slots=True)
class Seen:
    """A service's container at one look."""

    state: str
    health: str
    """Empty without a health check."""
    num_restarts: int
    exit_code: int

    @classmethod
    def of(cls, container: dict[str, Any]) -> Seen:
        """From what `docker inspect` shows."""
        state = container["State"]
        health = state.get("Health", {}).get("Status", "")
        return cls(state["Status"], health, container["RestartCount"], state["ExitCode"])


Look = dict[str, Seen]


@dataclass(frozen=True, slots=True)
class Finished:
    """A run after its end; its containers are still there."""

    looks: list[Look]
    """Everything between `up` and the operator's end; in the last one it has ended."""
    said: str
    """The operator's log."""
    layout: RunLayout
    """The run folder in its volume."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    if sentence := docker_daemon.missing():
        pytest.skip(sentence)
    with Daemon.up(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def compose(daemon: Daemon) -> Compose:
    return Compose("cpu", daemon.host)


@pytest.fixture(scope="module")
def images(daemon: Daemon, compose: Compose) -> None:
    """Those that the file names, one after the other: what only the build took is dropped."""
    daemon.docker("import", str(base_layer(cluster_tools.cache()).path), BASE)
    for image in sorted(set(compose.run("config", "--images").split())):
        name, tag = image.split(":")
        begun = time.monotonic()
        subprocess.run(
            [str(ROOT / "scripts" / "images"), sys.prefix, BASE, tag, name],
            cwd=ROOT,
            env=daemon.environment,
            check=True,
            timeout=BUILD_SECONDS,
        )
        daemon.docker("image", "prune", "--force", seconds=BUILD_SECONDS)
        size = int(daemon.docker("image", "inspect", "--format", "{{.Size}}", image))
        LOG.info("%s: %.0f s, %.2f GB", image, time.monotonic() - begun, size / 1e9)


@pytest.fixture(scope="module")
def finished(daemon: Daemon, compose: Compose, images: None) -> Finished:
    begun = time.monotonic()
    try:
        compose.run("up", "--detach", "--no-build", seconds=UP_SECONDS)
        LOG.info("everything is started after %.0f s", time.monotonic() - begun)
        looks = list(watched(daemon))
    except BaseException:
        print(compose.run("ps", "--all"), compose.run("logs", "--tail=40"))  # noqa: T201
        raise
    LOG.info("the operator has ended after %.0f s", time.monotonic() - begun)
    said = compose.run("logs", "--no-log-prefix", "operator")
    LOG.info("%s", said)
    volume = daemon.docker("volume", "inspect", "--format", "{{.Mountpoint}}", "srt_runs").strip()
    return Finished(looks, said, RunLayout(Path(volume) / "tiny-math"))


def watched(daemon: Daemon) -> Iterator[Look]:
    """Looks at all containers until the operator has ended."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        look = {
            container["Config"]["Labels"]["com.docker.compose.service"]: Seen.of(container)
            for container in daemon.containers()
        }
        yield look
        if look["operator"].state == "exited":
            return
        time.sleep(LOOK_SECONDS)
    raise TimeoutError(f"the operator has not ended after {RUN_SECONDS:.0f} s")


def test_the_job_is_trained_to_its_end(finished: Finished) -> None:
    status = json.loads(finished.layout.status.read_text())
    assert status["phase"] == "Complete"
    assert status["progress"]["step"] == STEPS
    last = finished.looks[-1]
    assert last["operator"].exit_code == 0
    assert (last["trainer"].state, last["trainer"].exit_code) == ("exited", 0)


def test_drafts_hit_and_run_ahead_ran(finished: Finished) -> None:
    arm = json.loads(finished.layout.summary.read_text())["arms"]["on"]
    assert arm["steps"] == STEPS
    assert arm["runahead"]["chunks"] > 0, arm
    assert arm["cache_hit_fraction"] > 0, arm
    assert arm["tokens_per_step"] > 1, arm


def test_the_log_ends_with_the_table_and_the_volume_holds_the_report(finished: Finished) -> None:
    head, *rows = arm_rows(json.loads(finished.layout.summary.read_text()))
    assert head == ["", "SRT on"]
    for label, value in rows:
        assert re.search(rf"{re.escape(label)} +│ +{re.escape(value)} ", finished.said), label
    assert "</html>" in finished.layout.report.read_text()


def test_what_serves_is_healthy_all_the_while_and_nothing_is_restarted(finished: Finished) -> None:
    assert len(finished.looks) > STEPS / LOOK_SECONDS
    for look in finished.looks:
        assert look.keys() == ALL
        assert not any(seen.num_restarts for seen in look.values()), look
    for look in finished.looks[:-1]:
        assert {look[name].health for name in SERVING} == {"healthy"}, look
        assert {look[name].state for name in ALL - {"trainer"}} == {"running"}, look


def test_down_leaves_nothing(daemon: Daemon, compose: Compose, finished: Finished) -> None:
    compose.run("down", "--volumes")
    assert not daemon.containers()
    assert not daemon.docker("volume", "ls", "--quiet")
    assert not daemon.docker("network", "ls", "--quiet", "--filter", "type=custom")
