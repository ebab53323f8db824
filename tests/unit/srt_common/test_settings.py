"""Settings: every fault at once, each naming variable, value and what is allowed; typos stop it."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field, SecretStr, ValidationError

from srt_common.errors import ConfigurationError
from srt_common.settings import ServiceSettings


class SampleSettings(ServiceSettings, env_prefix="SRT_SAMPLE_"):
    redis_url: str
    num_shards: Annotated[int, Field(ge=1, le=1024)] = 16
    token: SecretStr = SecretStr("")


@pytest.fixture(autouse=True)
def required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_SAMPLE_REDIS_URL", "redis://localhost")


def faults() -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        SampleSettings.from_environment()
    return caught.value.faults


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_SAMPLE_NUM_SHARDS", "4")
    settings = SampleSettings.from_environment()
    assert (settings.redis_url, settings.num_shards) == ("redis://localhost", 4)


def test_a_misspelt_variable_stops_the_process_and_names_the_near_match(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SRT_SAMPLE_NUM_SHARD", "4")
    [fault] = faults()
    assert fault.startswith("SRT_SAMPLE_NUM_SHARD is not a setting of this process")
    assert fault.endswith("did you mean SRT_SAMPLE_NUM_SHARDS?")


def test_a_variable_like_no_setting_is_named_without_a_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SRT_SAMPLE_XYZ", "4")
    assert faults() == ("SRT_SAMPLE_XYZ is not a setting of this process",)


def test_variables_of_other_processes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_OTHER_NUM_SHARD", "4")
    SampleSettings.from_environment()


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRT_SAMPLE_REDIS_URL")
    assert faults() == ("SRT_SAMPLE_REDIS_URL is not set; it is required",)


def test_all_faults_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRT_SAMPLE_REDIS_URL")
    monkeypatch.setenv("SRT_SAMPLE_NUM_SHARDS", "0")
    monkeypatch.setenv("SRT_SAMPLE_TOKE", "x")
    reported = faults()
    assert len(reported) == 3
    [shards] = [fault for fault in reported if "NUM_SHARDS" in fault]
    assert "SRT_SAMPLE_NUM_SHARDS is '0'" in shards
    assert "greater than or equal to 1" in shards


def test_settings_cannot_be_changed() -> None:
    settings = SampleSettings.from_environment()
    with pytest.raises(ValidationError):
        settings.num_shards = 3  # type: ignore[misc]


def test_resolved_settings_do_not_show_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_SAMPLE_TOKEN", "sesame")
    assert "sesame" not in str(SampleSettings.from_environment().resolved())
