"""The run-ahead worker as a process beside a real gateway with a fake engine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from support.fake_vllm import FakeVllm
from support.gateway import Gateway
from support.gateway_process import free_port
from support.redis_server import RedisServer


class Engine:
    """A gateway with its fake engine, on a port, in a thread."""

    def __init__(self, folder: Path, *, name: str, host: str, port: int) -> None:
        folder.mkdir()
        self.name = name
        self.vllm = FakeVllm()
        self.gateway = Gateway(self.vllm, folder, prefetch=None, engine_name=name)
        self.host = host
        self.port = port

    @classmethod
    @contextmanager
    def served(
        cls, folder: Path, *, name: str = "engine-0", host: str = "127.0.0.1", port: int = 0
    ) -> Iterator[Engine]:
        """An engine that serves; ``port`` 0: any that is free."""
        engine = cls(folder, name=name, host=host, port=port or free_port())
        config = uvicorn.Config(engine.gateway.app, host=host, port=engine.port, log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        engine.gateway.pod._is_started = True
        yield engine
        server.should_exit = True
        thread.join()

    def wait_running(self, number: int, *, seconds: float = 20) -> None:
        """Until so many rollouts run."""
        wait_until(
            lambda: self.vllm.num_running == number, f"{number} running chunks", seconds=seconds
        )


class WorkerProcess:
    """``python -m srt_runahead`` beside an engine."""

    def __init__(self, server: RedisServer, engine: Engine, folder: Path, *, job: str) -> None:
        self.folder = folder
        self._variables = {
            "SRT_RUNAHEAD_JOB": job,
            "SRT_RUNAHEAD_ENGINE_NAME": engine.name,
            "SRT_RUNAHEAD_GATEWAY_URL": f"http://{engine.host}:{engine.port}",
            "SRT_RUNAHEAD_TOKEN_FILE": str(engine.gateway.token_file),
            "SRT_RUNAHEAD_BROKER_URL": server.broker_url,
            "SRT_RUNAHEAD_COORDINATION_URL": server.url,
            "SRT_RUNAHEAD_CONCURRENCY": "4",
            "SRT_RUNAHEAD_VISIBILITY_TIMEOUT_SECONDS": "2",
            "SRT_TELEMETRY_DIR": str(folder),
        }
        self._num_starts = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._num_starts += 1
        with (self.folder / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "srt_runahead"],
                env=dict(os.environ) | self._variables,
                stdout=log,
                stderr=log,
            )

    def revive(self) -> None:
        """Start it again if it has ended, as a kubelet does. One that holds chunks ends when its
        broker goes: kombu cannot give them back then.
        """
        if self.process.poll() is not None:
            self.process = self._start()

    def is_serving(self) -> bool:
        """Whether it has begun to consume since its last start."""
        is_alive = self.process.poll() is None
        return is_alive and self.log.count('"message": "serving"') == self._num_starts

    @classmethod
    @contextmanager
    def started(
        cls, server: RedisServer, engine: Engine, folder: Path, *, job: str
    ) -> Iterator[WorkerProcess]:
        """A worker, killed afterwards."""
        worker = cls(server, engine, folder, job=job)
        try:
            yield worker
        finally:
            worker.process.kill()
            worker.process.wait()

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "worker.log").read_text()


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = 20) -> None:
    """Wait closely until ``condition`` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.01)
