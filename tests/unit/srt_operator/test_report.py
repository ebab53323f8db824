"""The report: one self-contained page for a run, a comparison, and a run that has hardly begun."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from srt_common.errors import ConfigurationError
from srt_operator.compare import NO_SRT, arm_layout, arms
from srt_operator.job_file import dump_job, load_job
from srt_operator.layout import RunLayout
from srt_operator.outcome import arms_of, conclude, run_folder
from srt_operator.run_lines import append_line
from srt_operator.tables import arm_rows, conclusion
from support.jobs import make_job

JOB_TEXT = dump_job(make_job())


class Links(HTMLParser):
    """Everything that a page would fetch or lead to, and the elements it has."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.linked: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in {"src", "data", "xlink:href"} and not (value or "").startswith("#"):
                self.fetched.append(value or "")
            if name == "href" and tag == "a":
                self.linked.append(value or "")


def read(layout: RunLayout) -> tuple[str, Links]:
    text = layout.report.read_text()
    links = Links()
    links.feed(text)
    return text, links


def write_arm(layout: RunLayout, *, job: str, steps: int = 4) -> None:
    layout.logs.mkdir(parents=True)
    layout.log_of("trainer").write_text("")
    layout.job.write_text(job)
    append_line(layout.metrics, evaluation(0, 0.4))
    for number in range(steps):
        append_line(layout.metrics, step(number))
    append_line(layout.metrics, evaluation(steps, 0.6))


def step(number: int) -> dict[str, Any]:
    return {
        "kind": "step",
        "step": number,
        "reward_mean": 0.5,
        "rollout_seconds": 2.0,
        "reward_seconds": 0.1,
        "train_seconds": 1.0,
        "weight_sync_seconds": 0.2,
        "step_seconds": 4.0,
        "num_rollouts": 8,
        "num_generated_tokens": 400,
        "num_request_steps": 150,
        "num_draft_tokens": 300,
        "num_accepted_tokens": 200,
    }


def evaluation(number: int, accuracy: float) -> dict[str, Any]:
    return {"kind": "eval", "step": number, "eval_accuracy": accuracy, "eval_samples": 512}


def write_srt_lines(layout: RunLayout) -> None:
    counts = {
        "num_draft_tokens": 100,
        "num_remote_draft_tokens": 40,
        "num_accepted_tokens": 60,
        "num_accepted_history": 20,
        "num_accepted_online": 30,
        "num_accepted_run_ahead": 10,
    }
    append_line(layout.engines, {"session": 1.0, "engines": {"rollout-0": counts}})
    bubble = {
        "kind": "bubble",
        "engine": "rollout-0",
        "type": "train",
        "step": 2,
        "opened_at_unix": 1000.0,
        "seconds": 1.5,
        "free_slot_seconds": 12.0,
        "run_ahead_slot_seconds": 6.0,
        "run_ahead_slot_seconds_in_training": 6.0,
    }
    append_line(layout.bubbles, bubble)
    append_line(layout.bubbles, bubble | {"type": "long_tail", "opened_at_unix": 1010.0})
    totals = {"num_chunks": 9, "num_tokens": 200, "num_tokens_drafted_from": 50}
    line = {"kind": "runahead", "session": 1.0, "totals": totals, "abort_seconds": [0.1]}
    append_line(layout.bubbles, line)


@pytest.fixture
def comparison(tmp_path: Path) -> RunLayout:
    layout = RunLayout(tmp_path / "sums")
    for name, job in arms(JOB_TEXT, []).items():
        write_arm(arm_layout(layout, name), job=dump_job(job))
    write_srt_lines(arm_layout(layout, "on"))
    layout.job.write_text(JOB_TEXT)
    return layout


def test_a_comparison_has_both_arms_and_what_it_says_of_them(comparison: RunLayout) -> None:
    summary = conclude(comparison)
    assert summary is not None
    assert json.loads(comparison.summary.read_text()) == summary
    assert list(summary["arms"]) == ["off", "on"]
    assert summary["comparison"]["accuracy_difference"]["includes_zero"]
    text, _ = read(comparison)
    for words in ("SRT off", "SRT on", "Bubbles", "Run-ahead", "Accuracy differs by", "run-ahead"):
        assert words in text


def test_a_page_fetches_nothing_and_links_to_files_that_exist(comparison: RunLayout) -> None:
    conclude(comparison)
    text, links = read(comparison)
    assert links.fetched == []
    assert not {"script", "link", "img", "iframe"} & set(links.tags)
    assert links.tags.count("svg") == 5
    assert "on/metrics.jsonl" in links.linked
    assert all((comparison.root / link).exists() for link in links.linked)
    urls = re.findall(r"https?://([^/\s\"'<>]+)", text)
    assert set(urls) <= {"www.w3.org", "purl.org", "creativecommons.org", "matplotlib.org"}


def test_a_page_of_a_single_run_and_its_table(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "sums")
    write_arm(layout, job=JOB_TEXT)
    write_srt_lines(layout)
    summary = conclude(layout)
    assert summary is not None
    assert list(summary["arms"]) == ["on"]
    assert conclusion(summary) == ""
    rows = {row[0]: row[1] for row in arm_rows(summary)}
    assert rows["tokens per step"] == "2.61"
    assert rows["drafted from other engines"] == "40.0%"
    assert rows["of them drafted from"] == "50"
    assert rows["bubble filled"] == "50.0%"


def test_a_run_of_stock_engines_is_the_off_arm(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "sums")
    write_arm(layout, job=dump_job(load_job(JOB_TEXT, overrides=NO_SRT)))
    assert list(arms_of(layout)) == ["off"]
    summary = conclude(layout)
    assert summary is not None
    assert "Bubbles" not in layout.report.read_text()
    assert not any(row[0].startswith("run-ahead") for row in arm_rows(summary))


def test_a_run_that_has_hardly_begun_has_a_page(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "sums")
    layout.root.mkdir()
    layout.job.write_text(JOB_TEXT)
    assert conclude(layout) is None
    layout.metrics.write_text("")
    assert conclude(layout) is not None
    _, links = read(layout)
    assert "svg" not in links.tags


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="allowed is a run folder"):
        run_folder(tmp_path)


def test_a_comparison_needs_both_arms_to_compare(comparison: RunLayout) -> None:
    arm_layout(comparison, "on").metrics.unlink()
    summary = conclude(comparison)
    assert summary is not None
    assert list(summary["arms"]) == ["off"]
    assert "comparison" not in summary
