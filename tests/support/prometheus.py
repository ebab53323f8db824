"""A real Prometheus (Debian's package) on a free port, and exporters for it to scrape."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from aiohttp import web

START_SECONDS: Final = 60.0
DCGM_SAMPLE: Final = Path(__file__).parents[1] / "data" / "dcgm.prom"


def find(program: str) -> str:
    """Path of ``prometheus`` or ``promtool``; skips the test where there is none."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program}: apt-get install prometheus, or put it on PATH")
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningPrometheus:
    """What tests ask of one."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self.process = process

    async def points(
        self, query: str, *, start: float, end: float, step: int
    ) -> list[dict[str, Any]]:
        """Of a range query: series with ``[time, value]`` pairs."""
        asked = {"query": query, "start": f"{start}", "end": f"{end}", "step": f"{step}"}
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"{self.url}/api/v1/query_range", data=asked, timeout=60.0)
        assert answer.status_code == 200, f"{query}: {answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


@asynccontextmanager
async def running(
    folder: Path, scrape: Mapping[str, Any], **config: Any
) -> AsyncIterator[RunningPrometheus]:
    """Prometheus that scrapes every second what ``scrape`` says, by job name."""
    jobs = [{"job_name": name, **given} for name, given in scrape.items()]
    document = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs, **config}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(document))
    port = free_port()
    process = _start(folder, port)
    try:
        await _wait_ready(f"http://127.0.0.1:{port}", process)
        yield RunningPrometheus(f"http://127.0.0.1:{port}", process)
    finally:
        process.kill()
        process.wait()


def _start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [
        find("prometheus"),
        f"--config.file={folder}/prometheus.yaml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


async def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    async with httpx.AsyncClient() as client, asyncio.timeout(START_SECONDS):
        while True:
            try:
                if (await client.get(url + "/-/ready", timeout=5.0)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert process.poll() is None, "prometheus ended: see its log in the test's folder"
            await asyncio.sleep(0.1)


def target(address: str, **more: Any) -> dict[str, Any]:
    """A scrape job of one address."""
    return {"static_configs": [{"targets": [address]}], **more}


def dcgm_of(pod: str, *, namespace: str, scale: float = 1.0) -> str:
    """The recorded exposition as of a pod's GPU; ``scale``: what its values are multiplied by."""
    text = DCGM_SAMPLE.read_text()
    text = text.replace('namespace=""', f'namespace="{namespace}"').replace(
        'pod=""', f'pod="{pod}"'
    )
    return re.sub(r"(?<=} )\S+$", lambda value: str(float(value[0]) * scale), text, flags=re.M)


@asynccontextmanager
async def exporting(read: Callable[[], str]) -> AsyncIterator[str]:
    """Serve what ``read`` returns as ``/metrics``; the address."""

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text=read())

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield f"127.0.0.1:{port}"
    finally:
        await runner.cleanup()
