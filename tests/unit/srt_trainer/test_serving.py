"""Whether and where weights are served: the environment's variables and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from srt_common.errors import ConfigurationError
from srt_trainer.serving import ServingSettings, check_serving
from support.trainer_jobs import job_settings


def test_without_variables_nothing_is_served() -> None:
    assert ServingSettings.from_environment().weights_url is None


def test_the_url_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_TRAINER_WEIGHTS_URL", "http://tiny-math-trainer.default.svc:8090")
    settings = ServingSettings.from_environment()
    assert (settings.weights_host, settings.weights_port) == ("0.0.0.0", 8090)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SRT_TRAINER_WEIGHTS_URL", "tiny-math-trainer:8090"),
        ("SRT_TRAINER_WEIGHTS_URL", "http://user:password@host"),
        ("SRT_TRAINER_WEIGHTS_URL", "http://host/path"),
        ("SRT_TRAINER_WEIGHTS_PORT", "0"),
    ],
)
def test_each_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"{name} is '{value}'"):
        ServingSettings.from_environment()


def test_serving_needs_a_token(tmp_path: Path) -> None:
    serving = ServingSettings(weights_url="http://host:8090")
    with pytest.raises(ConfigurationError, match="token_file is missing; it is required with SRT_"):
        check_serving(serving, job_settings(tmp_path))
    check_serving(serving, job_settings(tmp_path, token_file=str(tmp_path / "token")))
    check_serving(ServingSettings(), job_settings(tmp_path))
