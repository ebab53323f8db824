"""A rollout pod as a process, ``python -m srt_rollout``, with a real vLLM on the CPU."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

TOKEN: Final = "0123456789abcdef"
START_SECONDS: Final = 240.0
STOP_SECONDS: Final = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class GatewayProcess:
    """One pod. Its log lies in the folder as ``gateway.log``."""

    def __init__(self, folder: Path, model: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.weights_root = folder / "weights"
        self.weights_root.mkdir(exist_ok=True)
        token_file = folder / "token"
        token_file.write_text(TOKEN)
        given = {
            "SRT_ROLLOUT_ENGINE_NAME": "engine-0",
            "SRT_ROLLOUT_MODEL": str(model),
            "SRT_ROLLOUT_TOKEN_FILE": str(token_file),
            "SRT_ROLLOUT_PORT": self.url.rpartition(":")[2],
            "SRT_ROLLOUT_WEIGHTS_ROOT": str(self.weights_root),
            "SRT_ROLLOUT_MAX_NUM_SEQS": "4",
            "SRT_ROLLOUT_RESERVE_SLOTS": "1",
            "SRT_ROLLOUT_MAX_MODEL_LEN": "4000",
            "SRT_ROLLOUT_DTYPE": "float32",
            "SRT_ROLLOUT_ENFORCE_EAGER": "true",
            "SRT_ROLLOUT_KV_CACHE_MEMORY_BYTES": str(64 * 2**20),
            "SRT_ROLLOUT_NUM_THREADS": "1",
            "SRT_TELEMETRY_DIR": str(folder),
        }
        self.log_file = folder / "gateway.log"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "srt_rollout"],
                env=dict(os.environ) | given | dict(variables),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.headers = {"Authorization": f"Bearer {TOKEN}"}

    @classmethod
    @contextmanager
    def started(cls, folder: Path, model: Path, **variables: str) -> Iterator[GatewayProcess]:
        """A pod that serves; it has ended with its engine when the block is left."""
        pod = cls(folder, model, variables)
        try:
            pod.wait_ready()
            yield pod
        finally:
            pod.stop()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the pod did not start:\n{self.log_file.read_text()[-4000:]}")
            time.sleep(0.2)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            headers=self.headers,
            timeout=60,
            limits=httpx.Limits(max_connections=None),
        )

    def engine_processes(self) -> list[int]:
        """vLLM's processes: all in the session of the guard, the gateway's only child."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [pid for guard in children.split() for pid in _group_of(int(guard))]

    def stop(self) -> int:
        """SIGTERM, and SIGKILL when that takes too long; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.HTTPError:
            return False


def rollout(request_id: str, *, lane: str = "policy", **params: Any) -> dict[str, Any]:
    """Body of a generate request of up to 3900 tokens."""
    given = {"max_tokens": 3900, "ignore_eos": True, "extra_args": {"srt_lane": lane}}
    return {
        "request_id": request_id,
        "token_ids": [5, 6, 7, 8],
        "sampling_params": given | params,
    }


async def load(http: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get("/load")).json()
    return found


async def wait_for_load(http: httpx.AsyncClient, **wanted: int) -> None:
    """Until ``/load`` shows these counts."""
    deadline = time.monotonic() + 20
    while {name: (await load(http))[name] for name in wanted} != wanted:
        assert time.monotonic() < deadline, f"{await load(http)} never became {wanted}"
        await asyncio.sleep(0.02)


def has_ended(pid: int) -> bool:
    """True for a process that is gone, or dead and not yet collected by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _group_of(leader: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == leader:
            found.append(int(stat.parent.name))
    return found
