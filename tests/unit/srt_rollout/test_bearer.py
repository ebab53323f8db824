"""The token in a file: checked at the start, replaced while running, kept when the file goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from srt_common.errors import ConfigurationError
from srt_rollout.bearer import BearerToken

TOKEN = "0123456789abcdef"


def written(folder: Path, token: str) -> Path:
    file = folder / "token"
    file.write_text(token)
    return file


def test_the_scheme_is_case_insensitive_and_the_token_is_not(tmp_path: Path) -> None:
    token = BearerToken(written(tmp_path, TOKEN))
    assert token.is_presented_by(f"bearer {TOKEN}")
    assert not token.is_presented_by(f"Bearer {TOKEN.upper()}")
    assert not token.is_presented_by(f"Bearer {TOKEN}\u00e9\u2713")


@pytest.mark.parametrize("content", ["", "short", "\n"])
def test_a_file_without_a_real_token_stops_the_start(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed are 16 or more"):
        BearerToken(written(tmp_path, content))


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        BearerToken(tmp_path / "missing")


@pytest.mark.parametrize("content", [None, ""])
def test_a_file_that_goes_or_empties_leaves_the_last_token(
    tmp_path: Path, content: str | None
) -> None:
    file = written(tmp_path, TOKEN)
    token = BearerToken(file)
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
        os.utime(file, ns=(1, 1))
    assert token.is_presented_by(f"Bearer {TOKEN}")
