"""The operator of docker compose refuses endpoints that are not exactly the job's, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from srt_common.errors import ConfigurationError
from srt_operator.job_file import load_job
from srt_operator.static_run import StaticSettings, given_site

ROOT = Path(__file__).parents[3]
JOB = load_job((ROOT / "docs" / "examples" / "tiny-math" / "job.yaml").read_text())
ALL = {name: f"http://{name}:8000" for name in ("tree-cache-0", "rollout-0", "rollout-1")}


def settings(endpoints: dict[str, str]) -> StaticSettings:
    return StaticSettings(
        job_file=Path("job.yaml"),
        run_dir=Path("/runs/tiny-math"),
        endpoints=endpoints,
        redis_url=SecretStr("redis://redis:6379/0"),
    )


def test_processes_are_where_they_are_given() -> None:
    site = given_site(JOB, settings(ALL))
    assert site.url("rollout-1") == "http://rollout-1:8000"
    assert site.broker_url == "redis://redis:6379/0"


def test_a_missing_endpoint_is_named() -> None:
    left = {name: url for name, url in ALL.items() if name != "rollout-1"}
    with pytest.raises(ConfigurationError, match="rollout-1 is missing"):
        given_site(JOB, settings(left))


def test_an_endpoint_of_nobody_is_named() -> None:
    with pytest.raises(ConfigurationError, match="rollout-2 is not a process of the job"):
        given_site(JOB, settings(ALL | {"rollout-2": "http://rollout-2:8000"}))


def test_an_endpoint_with_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="endpoints"):
        settings(ALL | {"rollout-0": "http://rollout-0:8000/v1"})
