"""What releases live through: a chart before this one, and a hook where there is no kubelet."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from support.chart_access import kubeconfig
from support.cluster import ControlPlane
from support.helm import CHART
from support.operator_process import PlayedKubelet, wait_for

ADDED_FIELD: Final = "ttlSecondsAfterFinished"
ADDED_VALUES: Final = "hooks"
SECONDS: Final = 600


def chart_before(folder: Path) -> Path:
    """The chart as an earlier version of it: without a field of SRTJob, and without the uninstall
    hook and its values.
    """
    chart = folder / "srt"
    shutil.copytree(CHART, chart)  # what is a link in the repository is a folder there
    crds = chart / "charts" / "srt-crds"
    for name in (chart / "Chart.yaml", crds / "Chart.yaml"):
        name.write_text(name.read_text().replace("0.1.0", "0.0.9"))
    (chart / "templates" / "hooks" / "pre-delete.yaml").unlink()
    _without(chart / "values.yaml", ADDED_VALUES)
    _without(chart / "values.schema.json", "properties", ADDED_VALUES)
    spec = [
        "spec",
        "versions",
        "0",
        "schema",
        "openAPIV3Schema",
        "properties",
        "spec",
        "properties",
    ]
    _without(crds / "templates" / "srtjobs.yaml", *spec, ADDED_FIELD)
    return chart


def _without(file: Path, *path: str) -> None:
    document = yaml.safe_load(file.read_text())
    *parents, last = path
    part: Any = document
    for name in parents:
        part = part[int(name) if isinstance(part, list) else name]
    del part[last]
    file.write_text(json.dumps(document))  # which is YAML, too


@contextmanager
def uninstalling(plane: ControlPlane, release: str, namespace: str) -> Iterator[None]:
    """``helm uninstall`` in the background; its end is waited for and is a success."""
    command = plane.place.command(
        "helm", "uninstall", release, "--namespace", namespace, f"--timeout={SECONDS}s"
    )
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=plane.place.environment()
    )
    try:
        yield
        said, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said.decode()
    finally:
        process.kill()
        process.wait()


def play_hook(plane: ControlPlane, release: str, namespace: str, folder: Path) -> str:
    """Run what the hook's pod would, with its account, and tell the API server that it ended."""
    kubelet = PlayedKubelet(plane, namespace)

    def pods() -> list[dict[str, Any]]:
        label = "app.kubernetes.io/component=hooks"
        found: list[dict[str, Any]] = plane.get("pods", "-n", namespace, "-l", label)["items"]
        return found

    wait_for(pods, "the hook's pod")
    [pod] = pods()
    assert pod["spec"]["serviceAccountName"] == f"{release}-hooks"
    account = kubeconfig(plane, namespace, f"{release}-hooks", folder / "hook.kubeconfig")
    [container] = pod["spec"]["containers"]
    done = subprocess.run(
        [sys.executable, *container["command"][1:]],
        env=plane.place.environment() | {"KUBECONFIG": str(account)},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    when = "2026-01-01T00:00:00Z"
    ended = {"terminated": {"exitCode": 0, "startedAt": when, "finishedAt": when}}
    kubelet.set_state(pod, ended, phase="Succeeded")
    return done.stderr
