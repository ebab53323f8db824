"""Images without a docker daemon: folders packed as layers, one base made by debootstrap.

* The base is built once a machine and cached by the hash of what it is made of.
* A layer's bytes depend on its files alone: no times, no owners.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
BASE_PACKAGES = ("python3", "ca-certificates", "libnuma1")  # vLLM on a CPU links with the last
USER = 65532
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
NOT_NEEDED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "dev")


@dataclass(frozen=True, slots=True)
class Layer:
    """An uncompressed layer on disk."""

    path: Path
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What an image is beside its files."""

    reference: str
    layers: Sequence[Layer]
    entrypoint: Sequence[str] = ()
    environment: Mapping[str, str]
    user: int = USER


def pack_layer(root: Path, target: Path, *, prefix: str = ".") -> Layer:
    """The files below ``root``, placed at ``prefix``."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return None if entry.ischr() or entry.isblk() else entry

    with tarfile.open(target, "w") as archive:
        archive.add(root, arcname=prefix, filter=anonymous)
    with target.open("rb") as written:
        return Layer(target, hashlib.file_digest(written, "sha256").hexdigest())


def write_image(image: Image, target: Path) -> Path:
    """An archive that `ctr images import` and `docker load` read."""
    diffs = [f"sha256:{each.digest}" for each in image.layers]
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": list(image.entrypoint),
            "Env": [f"{name}={value}" for name, value in image.environment.items()],
            "User": str(image.user),
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": diffs},
        "history": [],
    }
    text = json.dumps(configuration).encode()
    name = hashlib.sha256(text).hexdigest() + ".json"
    layers = [f"{each.digest}/layer.tar" for each in image.layers]
    manifest = [{"Config": name, "RepoTags": [image.reference], "Layers": layers}]
    with tarfile.open(target, "w") as archive:
        for layer, inside in zip(image.layers, layers, strict=True):
            archive.add(layer.path, arcname=inside)
        _put(archive, name, text)
        _put(archive, "manifest.json", json.dumps(manifest).encode())
    return target


def pack_pause(program: Path, reference: str, target: Path) -> Path:
    """The image that holds a pod's namespaces: one static program."""
    layer = pack_layer(program, target.with_suffix(".layer"), prefix="pause")
    image = Image(reference=reference, layers=[layer], entrypoint=["/pause"], environment={})
    return write_image(image, target)


def base_image(cache: Path, reference: str, target: Path) -> Path:
    """Debian with Python and nothing of ours."""
    return write_image(
        Image(reference=reference, layers=[base_layer(cache)], environment={"PATH": PATH}), target
    )


def base_layer(cache: Path) -> Layer:
    """Debian with Python, made on first use (about a minute)."""
    key = hashlib.sha256(" ".join((SUITE, *BASE_PACKAGES, *NOT_NEEDED)).encode()).hexdigest()[:16]
    target = cache / f"base-{key}.tar"
    if not target.exists():
        root = cache / f"base-{key}"
        shutil.rmtree(root, ignore_errors=True)
        _debootstrap(root)
        pack_layer(root, target.with_suffix(".part"))
        target.with_suffix(".part").rename(target)
        shutil.rmtree(root)
    with target.open("rb") as written:
        return Layer(target, hashlib.file_digest(written, "sha256").hexdigest())


def _debootstrap(root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_suffix(".log").open("wb") as log:
        subprocess.run(
            [
                "debootstrap",
                "--variant=minbase",
                f"--include={','.join(BASE_PACKAGES)}",
                SUITE,
                str(root),
                _mirror(),
            ],
            check=True,
            stdout=log,
        )
    for folder in NOT_NEEDED:
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir()
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")


def _mirror() -> str:
    """Where this machine's apt gets the suite from."""
    sites = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", f"Codename: {SUITE}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    if not sites:
        raise RuntimeError(f"apt-get knows no source of Debian {SUITE}; run apt-get update")
    return sites[0]


def _put(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
