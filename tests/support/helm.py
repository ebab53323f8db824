"""Helm, where there is one: renders the chart as objects."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "srt"
SECONDS: Final = 120.0

Object = dict[str, Any]


def find_helm() -> Path | None:
    """``SRT_HELM``, one on PATH, or the one that `make test-cluster` built."""
    named = os.environ.get("SRT_HELM") or shutil.which("helm")
    if named is not None:
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "srt", "cluster")
    built = sorted(cache.glob("*/helm"), key=lambda path: path.stat().st_mtime)
    return built[-1] if built else None


def run_helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run helm with folders of its own; skips the test where there is none."""
    helm = find_helm()
    if helm is None:
        pytest.skip("no helm: put helm 4 on PATH, name it in SRT_HELM, or run make test-cluster")
    with tempfile.TemporaryDirectory(prefix="srt-helm-") as folder:
        homes = {f"HELM_{kind}_HOME": folder for kind in ("CACHE", "CONFIG", "DATA")}
        return subprocess.run(
            [str(helm), *words],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=os.environ | homes | {"KUBECONFIG": os.devnull},
        )


@functools.cache
def _rendered(values: str, namespace: str) -> str:
    answer = run_helm("template", "srt", str(CHART), "-n", namespace, "--set-json", values)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def render(values: Object | None = None, *, namespace: str = "srt-system") -> list[Object]:
    """Every object of a release named ``srt``, hooks included."""
    text = _rendered(json.dumps(values or {"profile": "cpu"}), namespace)
    return [found for found in yaml.safe_load_all(text) if found is not None]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Objects of one kind."""
    return [found for found in objects if found["kind"] == kind]


def named(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    (found,) = (one for one in of_kind(objects, kind) if one["metadata"]["name"] == name)
    return found


def pods(objects: list[Object]) -> dict[str, Object]:
    """Metadata and spec of every pod that the objects make, by ``Kind/name``."""
    found = {}
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            found[name] = one["spec"]["template"]
        elif one["kind"] == "Pod":
            found[name] = one
    return found
