"""A replica's settings: what is required, what is bounded, what is never shown."""

from __future__ import annotations

import pytest

from srt_common.errors import ConfigurationError
from srt_tree_cache.settings import TreeCacheSettings

REQUIRED = {
    "SRT_TREE_CACHE_REDIS_URL": "redis://user:sesame@localhost/0",
    "SRT_TREE_CACHE_CACHE_ID": "tiny-math",
    "SRT_TREE_CACHE_TOKEN_FILE": "token",
}


@pytest.fixture(autouse=True)
def required(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def test_the_required_ones_are_enough_and_passwords_stay_hidden() -> None:
    settings = TreeCacheSettings.from_environment()
    assert settings.redis_url.get_secret_value().endswith("@localhost/0")
    assert "sesame" not in str(settings.resolved())


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_a_missing_one_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match=f"{name} is not set"):
        TreeCacheSettings.from_environment()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUM_SHARDS", "0"),
        ("NUM_SHARDS", "1025"),
        ("CACHE_ID", "a{b}"),
        ("EVICT_TO_FRACTION", "1"),
        ("PORT", "65536"),
        ("MEMORY_LIMIT_BYTES", "5"),
        ("REDIS_TIMEOUT_SECONDS", "0"),
        ("NUM_SHARD", "4"),
    ],
)
def test_a_value_out_of_bounds_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"SRT_TREE_CACHE_{name}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable):
        TreeCacheSettings.from_environment()
