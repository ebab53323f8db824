"""`srt simulate` as a user meets it: figures by exact names, a table, refusals in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srt_common.simulate.__main__ import main

NAMES = {
    *("tokens_per_step", "acceptance_rate", "drafted_per_step", "propose_us_p50"),
    *("propose_us_p99", "insert_us_per_token", "bytes_per_token", "num_tokens"),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rollouts.jsonl"
    line = json.dumps({"prompt_token_ids": [1, 2], "response_token_ids": list(range(3, 43))})
    path.write_text(f"{line}\n" * 6)
    return path


def test_json_has_exactly_the_promised_names_for_every_arm(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = ("srt", "suffix", "prompt-lookup", "none")
    options = [word for arm in arms for word in ("--drafter", arm)]
    assert main([str(source), *options, "--batch-size", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == list(arms)
    assert all(set(figures) == NAMES for figures in found.values())
    assert all(figures["num_tokens"] == 240 for figures in found.values())
    assert found["none"]["tokens_per_step"] == 1.0
    assert found["suffix"]["tokens_per_step"] > 2 < found["srt"]["tokens_per_step"]


def test_the_table_says_what_to_expect_and_json_may_go_to_a_file(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert main([str(source), "--c0-ms", "8", "--c1-ms", "0.02", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "rollouts: 6 rollouts, 240 tokens; point-mass drafts" in out
    for line in ("tokens per step", "8 ms + n x 0.02 ms", "best --max-draft-tokens", "MiB"):
        assert line in out
    assert set(json.loads(file.read_text())) == {"srt"}


def test_a_governor_keeps_dear_machines_from_losing(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(source), "--governor", "--c0-ms", "0.001", "--c1-ms", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["srt"]["drafted_per_step"] == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--replicas", "65"], "--replicas: is '65'; allowed are 1 to 64"),
        (["--max-draft-tokens", "0"], "--max-draft-tokens: is '0'; allowed are 1 to 128"),
        (["--min-survival", "x"], "--min-survival: is 'x'; allowed are 0 to 1"),
        (["--publish-delay", "-1"], "--publish-delay: is '-1'; allowed are 0 to 3600"),
        (["--visits", "7-4"], "--visits: is '7-4'; allowed is a range such as 4-7"),
        (["--drafter", "magic"], "invalid choice: 'magic'"),
    ],
)
def test_a_wrong_option_is_refused(
    source: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(source), *options])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--equal-drafts"], "--equal-drafts with --drafter srt: allowed with srt and suffix"),
        (["--visits", "0"], "--visits is 0-0: allowed: sources with distributions only"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    source: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert main([str(source), *options]) == 2
    assert capsys.readouterr().err == sentence + "\n"


def test_a_source_without_rollouts_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    assert main([str(tmp_path / "empty.jsonl")]) == 2
    assert "holds 0 rollouts" in capsys.readouterr().err
