"""What came out of a run: ``summary.json`` and ``report.html`` in its folder, and the table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from srt_common.errors import ConfigurationError
from srt_operator.compare import OFF, ON, arm_layout, joined
from srt_operator.constants import ConditionType
from srt_operator.job_file import load_job
from srt_operator.layout import RunLayout
from srt_operator.resources import SRTJob
from srt_operator.run_lines import read_lines, replace_text
from srt_operator.status import SRTJobStatus
from srt_operator.summary import RunRecord, Summary, arm_summary
from srt_operator.tables import arm_rows, conclusion


def conclude(layout: RunLayout) -> Summary | None:
    """Write summary and report of a run or a comparison; None when nothing was measured yet.

    Raises:
        ConfigurationError: not a run folder.
    """
    from srt_operator.report.page import page  # draws: most commands do without

    job = job_of(layout)
    arms = {name: arm for name, arm in arms_of(layout).items() if arm.metrics.exists()}
    if not arms:
        return None
    summary = joined(job, {name: _summary(arm, is_srt=name == ON) for name, arm in arms.items()})
    replace_text(layout.summary, json.dumps(summary, indent=2) + "\n")
    replace_text(layout.report, page(layout, arms, summary))
    return summary


def show_outcome(console: Console, layout: RunLayout) -> bool:
    """Leave summary and report in the folder and show the table; False when there is nothing."""
    summary = conclude(layout)
    if summary is None:
        return False
    head, *rows = arm_rows(summary)
    table = Table(title=summary["job"])
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for text in (conclusion(summary), f"Report: {layout.report}"):
        if text:
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    return True


def failure_of(status: SRTJobStatus) -> str | None:
    """Why a job failed, as a sentence for people; None: it has not."""
    for condition in status.conditions:
        if condition.type is ConditionType.FAILED and condition.status == "True":
            return f"Failed ({condition.reason}): {condition.message}"
    return None


def job_of(layout: RunLayout) -> SRTJob:
    """The job of a run folder. Raises ConfigurationError."""
    try:
        text = layout.job.read_text()
    except OSError as error:
        fault = f"RUN is {str(layout.root)!r}: allowed is a run folder, such as runs/tiny-math"
        raise ConfigurationError(faults=[fault]) from error
    return load_job(text)


def arms_of(layout: RunLayout) -> Mapping[str, RunLayout]:
    """Folders of a run's arms: two of a comparison, else the run's own."""
    arms = {name: arm_layout(layout, name) for name in (OFF, ON)}
    if any(arm.job.exists() for arm in arms.values()):
        return {name: arm for name, arm in arms.items() if arm.job.exists()}
    return {ON if is_srt(job_of(layout)) else OFF: layout}


def is_srt(job: SRTJob) -> bool:
    """Whether the job drafts."""
    return job.spec.rollout.pool.drafter.enabled


def _summary(arm: RunLayout, *, is_srt: bool) -> Summary:
    record = RunRecord(
        metrics=read_lines(arm.metrics),
        engines=read_lines(arm.engines),
        bubbles=read_lines(arm.bubbles),
    )
    return arm_summary(record, is_srt=is_srt)


def run_folder(path: Path) -> RunLayout:
    """The layout of a folder that a user names. Raises ConfigurationError."""
    layout = RunLayout(path.resolve())
    job_of(layout)
    return layout
