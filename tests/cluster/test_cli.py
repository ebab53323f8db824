"""`srt` against a real API server: what it creates, shows and changes there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.cluster import ControlPlane
from support.jobs import JOB

DEFINITIONS = Path(__file__).parents[2] / "charts" / "srt-crds" / "templates"


class Command:
    """`srt` as the administrator of a cluster."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def run(self, *arguments: str, expected: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from srt_operator.cli import main; main()", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
            env=self._plane.place.environment(),
        )
        assert done.returncode == expected, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def srt(api_server: ControlPlane) -> Command:
    api_server.kubectl("apply", "--server-side", "-f", str(DEFINITIONS))
    api_server.kubectl(
        "wait", "--for=condition=Established", "--timeout=30s", "-f", str(DEFINITIONS)
    )
    return Command(api_server)


def test_a_job_is_submitted_shown_changed_and_deleted(
    srt: Command, api_server: ControlPlane, tmp_path: Path
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    assert "created (dry run)" in srt.run("submit", str(file), "--dry-run")
    assert api_server.names("srtjobs") == []
    made = json.loads(srt.run("submit", str(file), "--set", "spec.algorithm.steps=9", "-o", "json"))
    assert made["spec"]["algorithm"]["steps"] == 9
    assert "already exists" in srt.run("submit", str(file), expected=2)
    assert "sums" in srt.run("get", "-o", "wide")
    srt.run("suspend", "sums")
    assert api_server.get("srtjob", "sums")["spec"]["suspend"] is True
    srt.run("resume", "sums")
    assert api_server.get("srtjob", "sums")["spec"]["suspend"] is False
    srt.run("cancel", "sums")
    annotations = api_server.get("srtjob", "sums")["metadata"]["annotations"]
    assert annotations["srt-rl.dev/cancelled"] == "true"
    assert srt.run("delete", "sums") == "srtjob/sums deleted\n"
    assert "JOB is 'sums': allowed is an SRTJob of namespace default" in srt.run(
        "get", "sums", expected=2
    )
