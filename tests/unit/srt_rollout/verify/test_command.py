"""``srt verify`` says "lossless" only where something was shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from srt_rollout.verify.__main__ import main
from srt_rollout.verify.exact import ChiSquare
from srt_rollout.verify.runner import CaseResult


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "greedy"], "--only is 'greedy'; allowed is a part of one of: "),
        (["--sequences", "0"], "--sequences is 0; allowed is at least 1000"),
    ],
)
def test_what_would_show_nothing_is_refused_before_an_engine_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["verify", str(tmp_path), *arguments])
    assert main() == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("num_draft_tokens", "degrees_of_freedom", "tells"),
    [(5, 3, True), (0, 3, False), (5, 0, False)],
)
def test_a_case_without_drafts_or_with_one_cell_tells_nothing(
    num_draft_tokens: int, degrees_of_freedom: int, tells: bool
) -> None:
    test = ChiSquare(1000, degrees_of_freedom + 1, 1.0, degrees_of_freedom, 0.5)
    assert CaseResult("case", test, num_draft_tokens, 0).tells is tells
