"""Prompt keys: stable, not to be guessed without the secret, evenly spread over shards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_common.errors import ConfigurationError
from srt_common.keys import (
    PROMPT_KEY_BYTES,
    PromptKey,
    engine_id,
    prompt_key,
    read_cache_secret,
    shard_of,
    tokenizer_fingerprint,
)

SECRET = b"secret"
FINGERPRINT = tokenizer_fingerprint(b"{}")
TOKENS = st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=8)


def test_keys_do_not_change_between_versions() -> None:
    assert FINGERPRINT.hex() == "829e7c461f123c466123b42f162734df"
    key = prompt_key(SECRET, FINGERPRINT, token_ids=[1, 2, 70_000])
    assert key.hex() == "db594ef5afac9f612fb7262e8a2f7898"
    assert (
        prompt_key(SECRET, FINGERPRINT, token_ids=[], prompt_id="p").hex()
        == "fa7e2114ae0eb3671d0f6bca1bce9eda"
    )
    assert (shard_of(key, 16), shard_of(key, 256)) == (4, 68)
    assert engine_id("engine-0") == 3759218262


@given(TOKENS)
def test_a_key_depends_on_the_values_and_not_on_how_they_are_held(token_ids: list[int]) -> None:
    expected = prompt_key(SECRET, FINGERPRINT, token_ids=token_ids)
    assert len(expected) == PROMPT_KEY_BYTES
    for dtype in (np.int32, np.int64, np.uint32):
        held = np.asarray(token_ids, dtype=dtype)
        assert prompt_key(SECRET, FINGERPRINT, token_ids=held) == expected  # type: ignore[arg-type]


@given(TOKENS, TOKENS)
def test_different_prompts_have_different_keys(first: list[int], second: list[int]) -> None:
    keys = {prompt_key(SECRET, FINGERPRINT, token_ids=tokens) for tokens in (first, second)}
    assert len(keys) == (1 if first == second else 2)


def test_secret_tokenizer_and_kind_all_count() -> None:
    other = tokenizer_fingerprint(b"[]")
    keys = {
        prompt_key(SECRET, FINGERPRINT, token_ids=[1]),
        prompt_key(b"other", FINGERPRINT, token_ids=[1]),
        prompt_key(SECRET, other, token_ids=[1]),
        prompt_key(SECRET, FINGERPRINT, token_ids=[1], prompt_id="1"),
        prompt_key(SECRET, FINGERPRINT, token_ids=[1], prompt_id="2"),
    }
    assert len(keys) == 5


def test_an_id_names_the_prompt_whatever_its_tokens() -> None:
    first = prompt_key(SECRET, FINGERPRINT, token_ids=[1], prompt_id="task")
    assert prompt_key(SECRET, FINGERPRINT, token_ids=[2, 3], prompt_id="task") == first


@pytest.mark.parametrize("secret", [b"", bytes(65)])
def test_an_impossible_secret_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match=f"secret has {len(secret)} bytes; allowed are 1 to 64"):
        prompt_key(secret, FINGERPRINT, token_ids=[1])


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="token_ids is empty"):
        prompt_key(SECRET, FINGERPRINT, token_ids=[])


def test_prompts_spread_evenly_over_shards() -> None:
    keys = (PromptKey(number.to_bytes(16, "little")) for number in range(16_000))
    per_shard = Counter(shard_of(key, 16) for key in keys)
    assert set(per_shard) == set(range(16))
    assert max(per_shard.values()) < 1.2 * min(per_shard.values())


def test_a_secret_is_a_file_of_1_to_64_bytes(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(ConfigurationError, match=r"FIELD is '.*secret', which cannot be read"):
        read_cache_secret("FIELD", file)
    for content in (b" \n", b"x" * 65):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="bytes; allowed are 1 to 64"):
            read_cache_secret("FIELD", file)
    file.write_bytes(b"x" * 64 + b"\n")
    assert read_cache_secret("FIELD", file) == b"x" * 64
