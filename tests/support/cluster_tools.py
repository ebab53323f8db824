"""The programs of a cluster: ``python -m support.cluster_tools`` builds them from pinned modules.

A machine that cannot have them gets one sentence that names what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

BUILD = Path(__file__).parents[1] / "cluster" / "tools" / "build"
NODE_COMMANDS = ("unshare", "nsenter", "setsid", "ip", "sysctl", "iptables", "nft", "conntrack")


def folder() -> Path:
    """Where the programs of the committed modules lie, built or not."""
    return Path(_build("--where"))


def cache() -> Path:
    """Where images and their base are kept."""
    return folder().parent


def programs() -> Path:
    """Folder of the programs; what is not there yet is built (cold: 15 minutes on two cores)."""
    return Path(_build())


def missing_for_control_plane() -> str | None:
    """One sentence if no API server can run here."""
    if lacking := _lacking(("openssl",) if is_built() else ("openssl", "go")):
        return f"no cluster tests here: {', '.join(lacking)} missing (CONTRIBUTING.md lists what)"
    return None


def missing_for_node() -> str | None:
    """One sentence if no node can run here."""
    return missing_for_control_plane() or missing_for_namespaces(
        "node of a cluster", (*NODE_COMMANDS, "debootstrap"), target="cluster-packages"
    )


def missing_for_namespaces(what: str, commands: Sequence[str], *, target: str) -> str | None:
    """One sentence if ``what`` cannot run here in namespaces of its own (`tests/cluster/node`);
    ``target`` of the Makefile installs the ``commands``.
    """
    if os.geteuid() != 0:
        return f"no {what} here: it takes root, for its own namespaces and mounts"
    if lacking := _lacking(commands):
        return f"no {what} here: {', '.join(lacking)} missing (make {target})"
    if not Path("/sys/fs/cgroup/memory").is_dir():
        return f"no {what} here: the scripts know cgroup v1 only, this machine has v2"
    return None


def is_built() -> bool:
    """True if nothing is left to build."""
    return (folder() / "complete").exists()


def _lacking(commands: Sequence[str]) -> list[str]:
    return [command for command in commands if shutil.which(command) is None]


def _build(*arguments: str) -> str:
    done = subprocess.run([str(BUILD), *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    """Build, or say why not; the tests are skipped with the same sentence."""
    if sentence := missing_for_control_plane():
        sys.stdout.write(sentence + "\n")
    else:
        programs()


if __name__ == "__main__":
    main()
