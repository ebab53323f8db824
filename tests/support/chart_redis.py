"""The chart's server, started from what helm renders, and a run-ahead worker on it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.cluster import free_ports
from support.helm import Object, named

START_SECONDS: Final = 10.0
ADDRESS: Final = "srt-redis.srt-system.svc:6379"
AUTHORITIES: Final = ("/etc/srt/redis-ca/ca.crt", "/srt/private/redis-ca.crt")
"""Where the operator and the pods of jobs have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """URLs of a running server."""

    operator: str
    job: str
    nobody: str


@contextmanager
def started(
    program: Path, objects: list[Object], folder: Path, *, unknown: str = ""
) -> Iterator[Server]:
    """The server of rendered objects, gone afterwards.

    Args:
        program: a Redis-protocol server.
        objects: of a release ``srt`` in ``srt-system``.
        folder: of the server; where TLS is asked for, its files lie there.
        unknown: a right that this program is too old to know.
    """
    secret = named(objects, "Secret", "srt-redis")["stringData"]
    [port] = free_ports(1)
    users = secret["users.acl"]
    (folder / "users.acl").write_text(users.replace(f" {unknown}", "") if unknown else users)
    config = named(objects, "ConfigMap", "srt-redis")["data"]["valkey.conf"]
    for path in ("/etc/valkey/acl", "/etc/valkey/tls", "/data"):
        config = config.replace(path, str(folder))
    config = config.replace("port 6379", f"port {port}\nbind 127.0.0.1").replace("2gb", "256mb")
    (folder / "valkey.conf").write_text(config)
    process = subprocess.Popen(
        [str(program), str(folder / "valkey.conf")], stdout=subprocess.DEVNULL
    )

    def here(url: str) -> str:
        for path in AUTHORITIES:
            url = url.replace(path, str(folder / "ca.crt"))
        return url.replace(ADDRESS, f"127.0.0.1:{port}")

    try:
        _wait_for(port, process)
        nobody = f"redis://127.0.0.1:{port}/0"
        yield Server(operator=here(secret["url"]), job=here(secret["job-url"]), nobody=nobody)
    finally:
        process.kill()
        process.wait()


@contextmanager
def run_ahead_worker(url: str, folder: Path, *, job: str, engine: str) -> Iterator[None]:
    """A real worker beside an engine that does not answer."""
    token = folder / "token"
    token.write_text("token")
    given = {
        "SRT_RUNAHEAD_JOB": job,
        "SRT_RUNAHEAD_ENGINE_NAME": engine,
        "SRT_RUNAHEAD_GATEWAY_URL": "http://127.0.0.1:1",
        "SRT_RUNAHEAD_TOKEN_FILE": str(token),
        "SRT_RUNAHEAD_BROKER_URL": url,
        "SRT_RUNAHEAD_COORDINATION_URL": url,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "srt_runahead"],
            env=os.environ | given,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise RuntimeError("the server did not start from the chart's configuration")
