"""docker compose from pinned Go modules, on this checkout's docker-compose.yml.

``cd tests && python -m support.compose`` builds it (cold: 2 minutes on two idle cores).
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from support import go_programs
from support.cluster import output_of

ROOT: Final = Path(__file__).parents[2]
MODULE: Final = ROOT / "tests" / "compose" / "plugin"
PACKAGE: Final = "github.com/docker/compose/v5/cmd"


def program() -> Path:
    """Where it lies, built or not. It needs no docker command."""
    return go_programs.kept_at("compose", MODULE) / "docker-compose"


def find() -> Path:
    """Skips the test where it is not built."""
    if not program().exists():
        pytest.skip("no compose here: cd tests && ../.venv/bin/python -m support.compose builds it")
    return program()


@dataclass(frozen=True, slots=True)
class Compose:
    """The file's project with these profiles, comma separated; a daemon if it is to do anything."""

    profiles: str
    docker_host: str = ""

    def run(self, *words: str, seconds: float = 120) -> str:
        """Standard output; raises `CommandError`."""
        given = {"COMPOSE_PROFILES": self.profiles, "DOCKER_HOST": self.docker_host}
        return output_of(
            [str(find()), *words],
            called=["docker-compose", *words],
            environment=os.environ | given,
            seconds=seconds,
            folder=ROOT,
        )


def main() -> None:
    """Build it, or say what is missing."""
    if program().exists():
        return
    if shutil.which("go") is None:
        sys.stdout.write("no docker compose here: go missing\n")
        return
    go_programs.build(PACKAGE, MODULE, program())


if __name__ == "__main__":
    main()
