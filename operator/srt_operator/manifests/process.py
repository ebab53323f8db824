"""A local process as data, and the place where the processes of a job find each other. Pure."""

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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a process serves HTTP."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the processes of one job must know of where they are and of each other.

    In a cluster, texts may name variables of the container, such as ``$(POD_NAME)``.
    """

    layout: RunLayout
    """Where they find and leave files."""
    model: Path
    """Folder of the first policy."""
    job_id: str
    """Names coordination keys and queues."""
    job_name: str
    """As telemetry calls it."""
    cache_id: str
    """Names the trees."""
    endpoints: Mapping[str, Endpoint]
    """By process name."""
    listen_host: str = "127.0.0.1"
    """Address that they listen on."""
    server_url: str
    broker_url: str
    """The same server as Celery spells it."""
    scratch: Path
    """Short-lived folder with a short path, for sockets and temporary files."""
    telemetry: Path | None
    """Folder for spans and metrics; None: what ``OTEL_*`` says."""
    cache_token: Path
    """Bearer token of the tree cache."""
    num_engine_threads: int | None
    """OpenMP threads of one engine on a CPU; None: engines run on accelerators or alone."""
    engine_service: str | None = None
    """Base URL of all engines together; None: each has its endpoint."""
    weights_url: str | None = None
    """Where the trainer serves weights; None: over the shared folder."""

    def url(self, process: str) -> str:
        """Where a process serves HTTP."""
        return self.endpoints[process].url


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSite(Site):
    """A run on this machine."""

    python: str
    """Interpreter that has the suite installed."""
    server_command: tuple[str, ...]
    """Of the Redis-protocol server; empty: somebody else runs it."""


def serving(job: SRTJob) -> list[Member]:
    """Members that serve HTTP and need a port."""
    return [
        m for m in members(job.spec) if m.component in (Component.TREE_CACHE, Component.ROLLOUT)
    ]


def shared(site: Site, *, trace_sample_ratio: float) -> dict[str, str]:
    """Variables of every process: what it records and where, and where it may litter."""
    variables = {
        "TMPDIR": str(site.scratch),
        "SRT_TELEMETRY_JOB_NAME": site.job_name,
        "SRT_TELEMETRY_TRACE_SAMPLE_RATIO": str(trace_sample_ratio),
    }
    if site.telemetry is not None:
        variables["SRT_TELEMETRY_DIR"] = str(site.telemetry)
    return variables
