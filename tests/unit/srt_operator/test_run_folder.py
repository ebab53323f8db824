"""A run folder is never written over: refused, resumed, or moved aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from srt_common.errors import ConfigurationError
from srt_operator.layout import RunLayout
from srt_operator.run_folder import move_aside, open_folder
from support.jobs import make_job


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    made = RunLayout(tmp_path / "runs" / "sums")
    open_folder(make_job(), made, resume=False, fresh=False)
    (made.root / "metrics.jsonl").write_text("{}\n")
    return made


def test_a_folder_that_holds_a_run_is_refused(layout: RunLayout) -> None:
    with pytest.raises(ConfigurationError, match=r"holds a run: allowed are --resume"):
        open_folder(make_job(), layout, resume=False, fresh=False)


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    open_folder(make_job(), RunLayout(tmp_path), resume=False, fresh=False)
    assert (tmp_path / "job.yaml").exists()


def test_a_run_goes_on_with_more_steps(layout: RunLayout) -> None:
    open_folder(make_job(spec__algorithm__steps=9), layout, resume=True, fresh=False)
    assert "steps: 9" in layout.job.read_text()
    assert layout.metrics.exists()


def test_a_run_cannot_become_another_one(layout: RunLayout) -> None:
    other = make_job(spec__algorithm__steps=2, spec__algorithm__promptsPerStep=3)
    with pytest.raises(ConfigurationError) as caught:
        open_folder(other, layout, resume=True, fresh=False)
    assert caught.value.faults == (
        "spec.algorithm.promptsPerStep is 3: allowed is 2, as it was begun",
        "spec.algorithm.steps is 2: allowed is 3 or more, as it was begun",
    )


def test_resuming_what_was_never_begun_begins_it(tmp_path: Path) -> None:
    open_folder(make_job(), RunLayout(tmp_path / "x"), resume=True, fresh=False)
    assert (tmp_path / "x" / "job.yaml").exists()


def test_a_fresh_run_moves_the_earlier_one_aside(layout: RunLayout) -> None:
    open_folder(make_job(), layout, resume=False, fresh=True)
    assert not layout.metrics.exists()
    assert (layout.root.with_name("sums.1") / "metrics.jsonl").exists()
    (layout.root / "metrics.jsonl").write_text("")
    assert move_aside(layout.root).name == "sums.2"
