"""Settings of the operator, ``SRT_OPERATOR_*``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError

from srt_common.errors import ConfigurationError
from srt_common.settings import ServiceSettings
from srt_operator.manifests.kubernetes.pods import PodDefaults

KINDS = ("trainer", "rollout", "treeCache")


class OperatorSettings(ServiceSettings, env_prefix="SRT_OPERATOR_"):
    """One replica of the operator."""

    backend: Literal["kubernetes", "static"] = "kubernetes"
    """``kubernetes``: custom resources of a cluster; ``static``: one job whose processes somebody
    else starts, as docker compose does."""
    namespace: Annotated[str, Field(min_length=1, max_length=63)] = "default"
    """Where the operator itself runs: its lease and its key lie there."""
    watch_namespaces: tuple[str, ...] = ()
    """Namespaces whose resources are looked after, as a JSON list; empty: all."""
    identity: Annotated[str, Field(min_length=1, max_length=253)] = "srt-operator"
    """Of this replica, unique among them: the pod's name."""
    image_trainer: str = "srt-trainer"
    image_rollout: str = "srt-rollout"
    image_tree_cache: str = "srt-tree-cache"
    image_runahead: str = "srt-runahead"
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    redis_url_file: Path | None = None
    """File with the URL of the Redis-protocol server, credentials included; required with the
    back end ``kubernetes``."""
    job_redis_url_file: Path | None = None
    """File with the same server's URL as pods of jobs get it, for a user with fewer rights; none:
    they get the operator's own."""
    redis_ca_file: Path | None = None
    """Certificate that the server's is checked against, given to pods of jobs; none: no TLS, or
    their images know it."""
    file_roots: tuple[str, ...] = ("/models", "/data")
    """``file://`` is allowed below these folders of the pods, as a JSON list."""
    pod_defaults_file: Path | None = None
    """YAML with what every pod of a kind gets: ``trainer``, ``rollout``, ``treeCache``."""
    prometheus_url: Annotated[str, Field(pattern=r"^(https?://[^/@ ]+:[0-9]+/?)?$")] = ""
    """Asked for the GPU utilisation of jobs that name ``Prometheus`` as a source; empty: not
    asked."""
    host: str = "0.0.0.0"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Of probes and metrics."""


def redis_url(settings: OperatorSettings) -> str:
    """The server's URL. Raises ConfigurationError."""
    if settings.redis_url_file is None:
        raise ConfigurationError(faults=["SRT_OPERATOR_REDIS_URL_FILE is not set; it is required"])
    return _content("SRT_OPERATOR_REDIS_URL_FILE", settings.redis_url_file)


def job_redis_url(settings: OperatorSettings) -> str:
    """The server's URL for pods of jobs. Raises ConfigurationError."""
    if settings.job_redis_url_file is None:
        return redis_url(settings)
    return _content("SRT_OPERATOR_JOB_REDIS_URL_FILE", settings.job_redis_url_file)


def redis_ca(settings: OperatorSettings) -> str | None:
    """The server's authority as PEM, for pods of jobs. Raises ConfigurationError."""
    if settings.redis_ca_file is None:
        return None
    return _content("SRT_OPERATOR_REDIS_CA_FILE", settings.redis_ca_file)


def pod_defaults(settings: OperatorSettings) -> dict[str, PodDefaults]:
    """By kind of pod. Raises ConfigurationError."""
    if settings.pod_defaults_file is None:
        return {}
    name = "SRT_OPERATOR_POD_DEFAULTS_FILE"
    try:
        document = yaml.safe_load(settings.pod_defaults_file.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(faults=[f"{name} cannot be read: {error}"]) from error
    if not isinstance(document, dict) or not document.keys() <= set(KINDS):
        fault = f"{name} holds {sorted(document)}: allowed are {', '.join(KINDS)}"
        raise ConfigurationError(faults=[fault])
    try:
        return {kind: PodDefaults.model_validate(part or {}) for kind, part in document.items()}
    except ValidationError as error:
        faults = [f"{name}: {f['loc']}: {f['msg']}" for f in error.errors(include_url=False)]
        raise ConfigurationError(faults=faults) from error


def _content(name: str, file: Path) -> str:
    """Of a file that a setting names. Raises ConfigurationError."""
    try:
        return file.read_text().strip()
    except OSError as error:
        raise ConfigurationError(faults=[f"{name} cannot be read: {error}"]) from error
