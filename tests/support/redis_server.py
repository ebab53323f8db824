"""A real Redis-protocol server on a private unix socket, ended by its handle."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from srt_common.embedded import PrivateServer, on_socket

START_SECONDS = 10.0
MEMORY_BYTES = 256 * 2**20


class RedisServer:
    """Starts, freezes, kills and restarts one server; a restarted one has forgotten everything."""

    def __init__(self, folder: Path, *, max_memory_bytes: int = MEMORY_BYTES) -> None:
        self._socket_path = folder / "redis.sock"
        self._server: PrivateServer = on_socket(
            self._socket_path, folder=folder, max_memory_bytes=max_memory_bytes
        )
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def started(cls, *, max_memory_bytes: int = MEMORY_BYTES) -> Iterator[Self]:
        """A running server, gone afterwards with its folder."""
        folder = Path(tempfile.mkdtemp(prefix="srt-"))
        server = cls(folder, max_memory_bytes=max_memory_bytes)
        try:
            server.start()
            yield server
        finally:
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """For `connect`."""
        return self._server.url

    @property
    def broker_url(self) -> str:
        """For Celery."""
        return self._server.broker_url

    def start(self) -> None:
        """Start and wait until it answers."""
        self._process = subprocess.Popen(self._server.command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._server.command[0]} did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it at once, frozen or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._socket_path.unlink(missing_ok=True)

    def freeze(self) -> None:
        """It keeps its connections and answers nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It answers again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self._socket_path))
                client.sendall(b"PING\r\n")
                return client.recv(5) == b"+PONG"
            except OSError:
                return False
