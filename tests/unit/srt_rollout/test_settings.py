"""What a rollout pod needs to know, and that it says what is missing or wrong."""

from __future__ import annotations

import re

import pytest

from srt_common.errors import ConfigurationError
from srt_rollout.settings import RolloutSettings

GIVEN = {
    "SRT_ROLLOUT_ENGINE_NAME": "engine-0",
    "SRT_ROLLOUT_MODEL": "/models/policy",
    "SRT_ROLLOUT_TOKEN_FILE": "/secrets/token",
}


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)


def test_a_complete_environment_is_enough() -> None:
    assert RolloutSettings.from_environment().host == "127.0.0.1"


def test_further_flags_are_a_json_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_ROLLOUT_EXTRA_ARGS", '["--block-size=32"]')
    assert RolloutSettings.from_environment().extra_args == ("--block-size=32",)


@pytest.mark.parametrize("name", GIVEN)
def test_each_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match=f"{name} is not set; it is required"):
        RolloutSettings.from_environment()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SRT_ROLLOUT_ENGINE_NAME", "Engine_0"),
        ("SRT_ROLLOUT_EXTRA_ARGS", "--block-size=32"),
        ("SRT_ROLLOUT_PORT", "0"),
        ("SRT_ROLLOUT_MAX_DRAFT_TOKENS", "128"),
        ("SRT_ROLLOUT_TREE_CACHE_URL", "file:///etc"),
        ("SRT_ROLLOUT_WEIGHTS_URL_PREFIX", "trainer:8090"),
        ("SRT_ROLLOUT_WEIGHTS_URL_PREFIX", "http://user@trainer:8090"),
        ("SRT_ROLLOUT_WEIGHTS_URL_PREFIX", "http://trainer:8090/?a"),
        ("SRT_ROLLOUT_MAX_WEIGHTS_BYTES", "0"),
    ],
)
def test_each_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=re.escape(f"{name} is '{value}'")):
        RolloutSettings.from_environment()


def test_a_tree_cache_needs_its_token_and_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_ROLLOUT_TREE_CACHE_URL", "http://127.0.0.1:8090")
    with pytest.raises(ConfigurationError, match="needs tree_cache_token_file and cache_secret"):
        RolloutSettings.from_environment()


def test_weights_from_a_url_need_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRT_ROLLOUT_WEIGHTS_URL_PREFIX", "http://trainer:8090")
    with pytest.raises(ConfigurationError, match="weights_url_prefix needs weights_root"):
        RolloutSettings.from_environment()
