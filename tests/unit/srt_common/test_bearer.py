"""A token file: who presents it is let in, also after it was replaced, and a bad file is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from srt_common.bearer import BearerToken
from srt_common.errors import ConfigurationError

TOKEN = "a-token-of-tests"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return file


def replace(file: Path, text: str) -> None:
    file.write_text(text)
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN} ", f"BEARER {TOKEN}"])
def test_the_token_is_accepted_however_the_scheme_is_written(file: Path, header: str) -> None:
    assert BearerToken(file).is_presented_by(header)


@pytest.mark.parametrize(
    "header", [None, "", TOKEN, "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "\u20ac"]
)
def test_anything_else_is_not(file: Path, header: str | None) -> None:
    assert not BearerToken(file).is_presented_by(header)


def test_a_replaced_token_counts_at_once_and_the_former_no_longer(file: Path) -> None:
    token = BearerToken(file)
    replace(file, "another-token-of-tests")
    assert token.is_presented_by("Bearer another-token-of-tests")
    assert not token.is_presented_by(f"Bearer {TOKEN}")


def test_what_is_presented_is_what_the_file_has_now(file: Path) -> None:
    token = BearerToken(file)
    replace(file, "another-token-of-tests")
    assert str(token) == "another-token-of-tests"


@pytest.mark.parametrize("text", ["", "short"])
def test_a_replacement_that_is_no_token_leaves_the_former_one(file: Path, text: str) -> None:
    token = BearerToken(file)
    replace(file, text)
    assert token.is_presented_by(f"Bearer {TOKEN}")
    file.unlink()
    assert token.is_presented_by(f"Bearer {TOKEN}")


def test_a_file_without_a_token_is_named_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        BearerToken(tmp_path / "token")
    (tmp_path / "token").write_text("short")
    with pytest.raises(ConfigurationError, match="holds 5 bytes; allowed are 16 or more"):
        BearerToken(tmp_path / "token")
