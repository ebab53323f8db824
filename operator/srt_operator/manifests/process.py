"""A local process as data, and the place where the processes of a run find each other. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from srt_operator.layout import RunLayout
from srt_operator.processes import Component, Member, members
from srt_operator.resources import SRTJob


@dataclass(frozen=True, slots=True)
class HttpReadiness:
    """Ready when the URL answers 200."""

    url: str


@dataclass(frozen=True, slots=True)
class ServerReadiness:
    """Ready when the Redis-protocol server on the unix socket answers PING."""

    socket: Path


Readiness = HttpReadiness | ServerReadiness


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalProcess:
    """How to run one process on this machine."""

    name: str
    command: tuple[str, ...]
    """Program and arguments; no secrets, which lie in files."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside what ``srt run`` itself was given; no secrets."""
    files: Mapping[Path, str] = field(default_factory=dict)
    """Written with mode 0600 before the start."""
    readiness: Readiness | None = None
    """None: ready once started."""
    grace_seconds: float = 5.0
    """From SIGTERM to SIGKILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the processes of one local run must know of this machine and of each other."""

    python: str
    """Interpreter that has the suite installed."""
    layout: RunLayout
    model: Path
    """Folder of the first policy."""
    ports: Mapping[str, int]
    """By process name."""
    server_command: tuple[str, ...]
    """Of the Redis-protocol server; empty: somebody else runs it."""
    server_url: str
    broker_url: str
    """The same server as Celery spells it."""
    scratch: Path
    """Short-lived folder with a short path, for sockets and temporary files."""
    num_engine_threads: int | None
    """OpenMP threads of one engine on a CPU; None: engines run on accelerators."""

    def url(self, process: str) -> str:
        """Where a process serves HTTP."""
        return f"http://127.0.0.1:{self.ports[process]}"


def serving(job: SRTJob) -> list[Member]:
    """Members that serve HTTP and need a port."""
    return [
        m for m in members(job.spec) if m.component in (Component.TREE_CACHE, Component.ROLLOUT)
    ]


def shared(job: SRTJob, site: Site) -> dict[str, str]:
    """Variables of every process: what it records and where, and where it may litter."""
    return {
        "TMPDIR": str(site.scratch),
        "SRT_TELEMETRY_DIR": str(site.layout.telemetry),
        "SRT_TELEMETRY_JOB_NAME": job.metadata.name,
        "SRT_TELEMETRY_TRACE_SAMPLE_RATIO": str(job.spec.telemetry.trace_sample_ratio),
    }
