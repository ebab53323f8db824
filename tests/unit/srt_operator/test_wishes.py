"""What a user wants of a run that goes on reaches it through its job file."""

from __future__ import annotations

from pathlib import Path

from srt_operator.job_file import load_job
from srt_operator.layout import RunLayout
from srt_operator.wishes import Wish, Wishes, make_wish, wish_of
from support.jobs import JOB


def test_a_wish_is_written_into_the_job_and_changes_nothing_else(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    layout.job.write_text(JOB)
    make_wish(layout, Wish(is_suspended=True, is_cancelled=True))
    assert wish_of(load_job(layout.job.read_text())) == Wish(is_suspended=True, is_cancelled=True)
    make_wish(layout, Wish())
    assert load_job(layout.job.read_text()) == load_job(JOB)


def test_the_last_wish_that_can_be_read_counts(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    wishes = Wishes(layout.job, begun_with=Wish(is_suspended=True))
    assert wishes.now() == Wish(is_suspended=True)
    layout.job.write_text(JOB)
    assert wishes.now() == Wish()
    make_wish(layout, Wish(is_cancelled=True))
    assert wishes.now() == Wish(is_cancelled=True)
    layout.job.write_text("spec: {")
    assert wishes.now() == Wish(is_cancelled=True)
    layout.job.unlink()
    assert wishes.now() == Wish(is_cancelled=True)
