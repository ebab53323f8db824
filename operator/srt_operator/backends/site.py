"""Makes the place a local run lives in: folders, secrets, ports, the server's address.

* A folder that holds a run is never written over: it is resumed, moved aside, or refused.
* One `srt run` at a time works on a folder; its processes hold the lock as long as they live.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket
from typing import Final

from srt_common import embedded
from srt_common.errors import ConfigurationError
from srt_operator.backends.local import write_private
from srt_operator.backends.models import local_folder
from srt_operator.layout import RunLayout
from srt_operator.manifests.process import Endpoint, LocalSite, serving
from srt_operator.resources import SRTJob

LOCK_PATIENCE_SECONDS: Final = 10.0
"""What a killed run left behind ends itself within 5 s."""

_SCRATCH_PREFIX: Final = "srt-run-"
_SERVER_OVERHEAD_BYTES: Final = 256 * 2**20
"""Coordination, task queue and the update log beside the snapshots."""


@contextmanager
def locked(layout: RunLayout) -> Iterator[int]:
    """Hold a run folder; the descriptor is for the processes to inherit.

    Raises:
        ConfigurationError: somebody else works on it.
    """
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                fault = f"{layout.root} is in use by another srt run; wait for it or end it"
                raise ConfigurationError(faults=[fault])
            time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


def is_running(layout: RunLayout) -> bool:
    """Whether somebody works on a run folder now, or a process of its run still lives."""
    try:
        descriptor = os.open(layout.lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def prepared(job: SRTJob, layout: RunLayout) -> Iterator[LocalSite]:
    """Folders, secrets and addresses of a run; secrets of an earlier start are kept.

    Raises:
        ConfigurationError: no model, or no Redis-protocol server to be had.
    """
    furnish(layout)
    with _scratch(layout) as scratch:
        yield site_of(job, layout, scratch=scratch)


def furnish(layout: RunLayout) -> None:
    """Make the folders and the secrets that are not there yet."""
    for folder in (layout.logs, layout.telemetry, layout.weights, layout.checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    layout.private.mkdir(mode=0o700, exist_ok=True)
    for file in (layout.token, layout.cache_secret):
        if not file.exists():
            write_private(file, secrets.token_hex(32))


def site_of(job: SRTJob, layout: RunLayout, *, scratch: Path) -> LocalSite:
    """What the processes of a run would find, made without touching anything.

    Raises:
        ConfigurationError: no model, or no Redis-protocol server to be had.
    """
    command, url, broker_url = _server(job, layout, scratch / "redis.sock")
    ports = free_ports([member.name for member in serving(job)])
    return LocalSite(
        python=sys.executable,
        layout=layout,
        model=local_folder(job.spec.model.uri),
        job_id=job.metadata.name,
        job_name=job.metadata.name,
        cache_id=job.metadata.name,
        endpoints={name: Endpoint("127.0.0.1", port) for name, port in ports.items()},
        telemetry=layout.telemetry,
        cache_token=layout.token,
        server_command=command,
        server_url=url,
        broker_url=broker_url,
        scratch=scratch,
        num_engine_threads=_engine_threads(job),
    )


def free_ports(names: list[str]) -> dict[str, int]:
    """A port of the loopback for each name; nobody listens on them now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket()) for _ in names]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return {name: probe.getsockname()[1] for name, probe in zip(names, probes, strict=True)}


def _server(
    job: SRTJob, layout: RunLayout, server_socket: Path
) -> tuple[tuple[str, ...], str, str]:
    """Command (empty: somebody else runs it), URL, and URL for Celery."""
    cache = job.spec.tree_cache.cache
    if cache.redis is not None:
        url = cache.redis.endpoint
        return (), url, url.replace("unix://", "redis+socket://")
    server = embedded.on_socket(
        server_socket,
        folder=layout.private,
        max_memory_bytes=2 * cache.retention.max_bytes + _SERVER_OVERHEAD_BYTES,
    )
    return server.command, server.url, server.broker_url


@contextmanager
def _scratch(layout: RunLayout) -> Iterator[Path]:
    """A folder of our own below the system's temporary one: sockets need short paths.

    What a killed start left is removed by the next one.
    """
    if layout.scratch_record.exists():
        _remove_scratch(Path(layout.scratch_record.read_text()))
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX))
    write_private(layout.scratch_record, str(folder))
    try:
        yield folder
    finally:
        _remove_scratch(folder)
        layout.scratch_record.unlink(missing_ok=True)


def _remove_scratch(folder: Path) -> None:
    """Remove a folder, if it is one of ours."""
    is_ours = folder.parent == Path(tempfile.gettempdir()) and folder.name.startswith(
        _SCRATCH_PREFIX
    )
    if is_ours and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def _engine_threads(job: SRTJob) -> int | None:
    """An even share of the cores, or None where engines find an accelerator."""
    if Path("/dev/nvidiactl").exists():
        return None
    return max(1, (os.cpu_count() or 1) // job.spec.rollout.pool.replicas)
