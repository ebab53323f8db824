"""A docker daemon in namespaces of its own: the machine keeps its addresses, netfilter tables and
mounts, and one kill ends the daemon with every container.

* Its images, containers and volumes lie in the folder given and are removed with it.
* It has no way out: what is not built or loaded here is not there.
* ``cd tests && python -m support.docker_daemon`` builds the first process of its namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from support import cluster_tools, go_programs
from support.cluster import NODE_SCRIPTS, CommandError, Place, Processes, output_of

PAUSE: Final = Path(__file__).parents[1] / "cluster" / "tools" / "pause"
COMMANDS: Final = ("dockerd", "docker", "docker-init", "containerd", "runc", "debootstrap")
SYSTEM_COMMANDS: Final = ("unshare", "nsenter", "setsid", "ip", "sysctl", "iptables")
READY_SECONDS: Final = 60.0


def first_process() -> Path:
    """What the namespaces live by, built or not."""
    return go_programs.kept_at("pause", PAUSE) / "pause"


def missing() -> str | None:
    """One sentence if no daemon can run here."""
    commands = (*SYSTEM_COMMANDS, *COMMANDS)
    if sentence := cluster_tools.missing_for_namespaces(
        "docker daemon", commands, target="compose-packages"
    ):
        return sentence
    if not first_process().exists():
        return "no docker daemon here: make test-compose builds the first process of its namespaces"
    return None


class Daemon:
    """The daemon, and the docker command that talks to it."""

    def __init__(self, state: Path) -> None:
        enter = (str(NODE_SCRIPTS / "enter"), str(state))
        self._place = Place(programs=first_process().parent, state=state, enter=enter)
        self._processes = Processes(self._place)
        self.images = state / "docker"
        self.host = f"unix://{state}/docker.sock"

    @classmethod
    @contextmanager
    def up(cls, state: Path) -> Iterator[Daemon]:
        """A daemon that answers, gone afterwards with all it held."""
        state.mkdir(parents=True, exist_ok=True)
        daemon = cls(state)
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.stop()

    def start(self) -> None:
        """Start it and wait until it answers. The machine may not give it a better OOM score."""
        state, programs = self._place.state, self._place.programs
        subprocess.run([str(NODE_SCRIPTS / "up"), str(state), str(programs)], check=True)
        self._processes.start(
            "dockerd",
            "dockerd",
            f"--data-root={self.images}",
            "--exec-root=/run/docker",
            "--pidfile=/run/docker.pid",
            f"--host={self.host}",
            "--oom-score-adjust=0",
            "--log-level=warn",
        )
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            self._processes.check()
            assert time.monotonic() < deadline, "it does not answer: see dockerd.log"
            time.sleep(0.1)

    def stop(self) -> None:
        """End the namespaces, then what stood outside of them; remove images and volumes."""
        subprocess.run([str(NODE_SCRIPTS / "down"), str(self._place.state)], check=True)
        self._processes.stop_all()
        shutil.rmtree(self.images, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """For commands that shall talk to it; images are built by its own builder, not BuildKit."""
        return os.environ | {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0"}

    def docker(self, *words: str, seconds: float = 120) -> str:
        """Standard output of docker, which runs on the machine; raises `CommandError`."""
        command = ["docker", *words]
        return output_of(command, called=command, environment=self.environment, seconds=seconds)

    def containers(self) -> list[dict[str, Any]]:
        """All there are, as `docker inspect` shows them."""
        names = self.docker("ps", "--all", "--quiet").split()
        return list(json.loads(self.docker("inspect", *names))) if names else []

    def _answers(self) -> bool:
        try:
            self.docker("version")
        except CommandError:
            return False
        return True


def main() -> None:
    """Build what a daemon here takes beside Debian's packages; `missing` says what is not there."""
    if not first_process().exists() and shutil.which("go") is not None:
        go_programs.build(".", PAUSE, first_process())


if __name__ == "__main__":
    main()
