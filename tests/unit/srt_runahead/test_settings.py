"""What a run-ahead worker needs to know, and that it says what is missing or wrong."""

from __future__ import annotations

import pytest

from srt_common.errors import ConfigurationError
from srt_runahead.settings import RunaheadSettings

GIVEN = {
    "SRT_RUNAHEAD_JOB": "tiny-math",
    "SRT_RUNAHEAD_ENGINE_NAME": "engine-0",
    "SRT_RUNAHEAD_GATEWAY_URL": "http://127.0.0.1:8000",
    "SRT_RUNAHEAD_TOKEN_FILE": "/secrets/token",
    "SRT_RUNAHEAD_BROKER_URL": "redis://:password@host/0",
    "SRT_RUNAHEAD_COORDINATION_URL": "redis://:password@host/0",
}


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)


def test_a_complete_environment_is_enough() -> None:
    assert RunaheadSettings.from_environment().concurrency == 16


def test_the_resolved_settings_show_no_password() -> None:
    assert "password" not in str(RunaheadSettings.from_environment().resolved())


@pytest.mark.parametrize("name", GIVEN)
def test_each_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match=f"{name} is not set; it is required"):
        RunaheadSettings.from_environment()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SRT_RUNAHEAD_ENGINE_NAME", "Engine_0"),
        ("SRT_RUNAHEAD_GATEWAY_URL", "http://host/path"),
        ("SRT_RUNAHEAD_CONCURRENCY", "0"),
        ("SRT_RUNAHEAD_POLL_INTERVAL_SECONDS", "2"),
    ],
)
def test_each_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"{name} is '{value}'"):
        RunaheadSettings.from_environment()
