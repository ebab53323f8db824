"""Settings of a run-ahead worker, ``SRT_RUNAHEAD_*``: one worker beside each engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from srt_common.settings import ServiceSettings


class RunaheadSettings(ServiceSettings):
    """Whose chunks are done, and where."""

    model_config = SettingsConfigDict(env_prefix="SRT_RUNAHEAD_")

    job: Annotated[str, Field(min_length=1, max_length=253)]
    """Job id: its queues and its coordination keys. Required."""

    engine_name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """The engine whose bubbles are filled; as its gateway calls it. Required."""

    gateway_url: Annotated[str, Field(pattern=r"^https?://[^/?#]+$")]
    """That engine's gateway, ``http://host:port``. Required."""

    token_file: Path
    """File with the gateway's bearer token; read anew for each chunk. Required."""

    broker_url: SecretStr
    """Celery's broker, ``redis[s]://`` or ``redis+socket://``. Required."""

    coordination_url: SecretStr
    """Where bubbles, prompts and claims lie, ``redis[s]://`` or ``unix://``. Required."""

    concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    """Chunks in flight at once; the gateway's free slots decide how many run."""

    poll_interval_seconds: Annotated[float, Field(gt=0, le=1)] = 0.05
    """How often a running chunk looks whether its bubble is still open."""

    chunk_timeout_seconds: Annotated[float, Field(gt=0, le=45)] = 15.0
    """Longest a chunk may run; then it is aborted and its tokens are kept."""

    visibility_timeout_seconds: Annotated[float, Field(ge=1)] = 60.0
    """After this time the chunks of a killed worker are given to another one. At least four times
    ``chunk_timeout_seconds``, or a chunk may run twice."""
