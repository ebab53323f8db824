"""Outputs in docs/submit.md are real ones: its commands run on a control plane with an operator.

A kubelet is played, so no engine answers and hit rates stay empty.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.cluster import ControlPlane, apply_definitions
from support.documented import Shown, alike, shown_in, write_anew
from support.operator_process import OperatorProcess, PlayedKubelet, wait_for
from support.redis_server import RedisServer

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "submit.md"
NAMESPACE, JOB, LEADER = "team", "tiny-math", "srt-operator-0"


class Cluster:
    """Where the page's commands run, and how its job gets from stage to stage."""

    def __init__(self, plane: ControlPlane, programs: Path) -> None:
        self._plane = plane
        self._kubelet = PlayedKubelet(plane, NAMESPACE)
        command = "from srt_operator.cli import main; main()"
        (programs / "srt").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{command}" "$@"\n')
        (programs / "srt").chmod(0o755)
        self._path = f"{programs}:{plane.place.environment()['PATH']}"

    def run(self, shown: Shown) -> str:
        """What a command of the page prints, once its stage is there."""
        if shown.stage is not None:
            getattr(self, f"_until_{shown.stage}")()
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", shown.command],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=self._plane.place.environment() | {"PATH": self._path, "COLUMNS": "110"},
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def _until_namespace(self) -> None:
        self._plane.kubectl("create", "namespace", NAMESPACE)
        wait_for(self._is_led, "a leader")

    def _until_running(self) -> None:
        self._kubelet.make_ready(1, role="tree-cache")
        self._kubelet.make_ready(2, role="rollout")
        self._kubelet.make_ready(1, role="trainer")
        wait_for(lambda: self._status().get("phase") == "Running", "the job runs")

    def _until_suspended(self) -> None:
        wait_for(partial(self._has_stopped, "Suspended"), "the job is suspended")

    def _until_complete(self) -> None:
        self._until_running()
        self._kubelet.end(0, role="trainer")
        wait_for(partial(self._has_stopped, "Complete"), "the job is complete")

    def _is_led(self) -> bool:
        lease = self._plane.get("lease", "srt-operator")
        return bool(lease["spec"].get("holderIdentity") == LEADER)

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = self._plane.get("srtjob", JOB, "-n", NAMESPACE).get("status", {})
        return status

    def _has_stopped(self, phase: str) -> bool:
        """Engines and trees are gone, and the status says so: what the page shows is settled."""
        self._kubelet.sweep()
        status = self._status()
        conditions = {c["type"]: c["status"] for c in status["conditions"]}
        is_gone = status["rollout"]["ready"] == 0 and conditions["TreeCacheReady"] == "False"
        return bool(status["phase"] == phase and is_gone)


@pytest.fixture
def cluster(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Cluster]:
    apply_definitions(control_plane)
    with (
        RedisServer.started() as redis,
        OperatorProcess.started(control_plane, tmp_path, redis.url, identity=LEADER),
    ):
        yield Cluster(control_plane, tmp_path)


def test_commands_of_the_page_print_what_it_says(cluster: Cluster) -> None:
    if os.environ.get("SRT_WRITE_DOCS"):
        write_anew(PAGE, cluster.run)
        return
    for shown in shown_in(PAGE):
        assert alike(cluster.run(shown)) == alike(shown.output), shown.command
