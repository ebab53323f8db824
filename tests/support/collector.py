"""The OpenTelemetry collector of docker-compose.yml, metrics alone, built from pinned Go modules.

``cd tests && python -m support.collector`` builds it (cold: 5 minutes on two idle cores).
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from support import go_programs
from support.prometheus import free_port

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = ROOT / "tests" / "collector"
START_SECONDS: Final = 60.0


def program() -> Path:
    """Where it lies, built or not."""
    return go_programs.kept_at("collector", SOURCES)


def find() -> Path:
    """Skips the test where it is not built."""
    if not program().exists():
        pytest.skip("no collector: cd tests && ../.venv/bin/python -m support.collector builds it")
    return program()


@dataclass(frozen=True, slots=True)
class Collector:
    """Where one takes OTLP over HTTP, and where it is scraped."""

    otlp_url: str
    scraped_at: str


@asynccontextmanager
async def collecting(folder: Path) -> AsyncIterator[Collector]:
    """A collector with the compose file's configuration, on free ports, without its traces."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    config: dict[str, Any] = yaml.safe_load(compose["configs"]["collector"]["content"])
    del config["service"]["pipelines"]["traces"], config["exporters"]["otlp"]
    otlp, scraped = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    config["receivers"]["otlp"]["protocols"]["http"]["endpoint"] = otlp
    config["exporters"]["prometheus"]["endpoint"] = scraped
    config["service"]["telemetry"] = {"metrics": {"level": "none"}}
    process = _start(folder, config)
    try:
        await _wait_ready(f"http://{scraped}/metrics", process)
        yield Collector(f"http://{otlp}", scraped)
    finally:
        process.terminate()
        process.wait()


def _start(folder: Path, config: dict[str, Any]) -> subprocess.Popen[bytes]:
    (folder / "collector.yaml").write_text(yaml.safe_dump(config))
    command = [str(find()), f"--config={folder}/collector.yaml"]
    with (folder / "collector.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


async def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    async with httpx.AsyncClient() as client, asyncio.timeout(START_SECONDS):
        while True:
            try:
                await client.get(url, timeout=5.0)
            except httpx.TransportError:
                assert process.poll() is None, "it ended: see collector.log in the test's folder"
                await asyncio.sleep(0.1)
            else:
                return


def main() -> None:
    """Build it, or say what is missing."""
    if shutil.which("go") is None:
        sys.stdout.write("no collector here: go missing\n")
        return
    go_programs.build(".", SOURCES, program())


if __name__ == "__main__":
    main()
