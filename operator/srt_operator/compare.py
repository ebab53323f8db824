"""Two arms of one job, SRT off and on, with the same seed and prompts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from srt_operator.job_file import load_job
from srt_operator.layout import RunLayout
from srt_operator.resources import SRTJob
from srt_operator.summary import Summary, comparison

OFF: Final = "off"
ON: Final = "on"
NO_SRT: Final = (
    "spec.rollout.template.drafter.enabled=false",
    "spec.runAhead.enabled=false",
)
"""Overrides that leave stock engines: their own scheduler, no drafting, no tree cache."""


def arms(text: str, overrides: Sequence[str]) -> dict[str, SRTJob]:
    """The jobs to run, in this order. Raises ConfigurationError."""
    return {
        OFF: load_job(text, overrides=[*overrides, *NO_SRT]),
        ON: load_job(text, overrides=overrides),
    }


def arm_layout(layout: RunLayout, arm: str) -> RunLayout:
    """Folder of one arm below the folder of the comparison."""
    return RunLayout(layout.root / arm)


def joined(job: SRTJob, summaries: dict[str, Summary]) -> Summary:
    """``summary.json`` of a run with one arm or two."""
    result: Summary = {"job": job.metadata.name, "arms": summaries}
    if OFF in summaries and ON in summaries:
        result["comparison"] = comparison(summaries[OFF], summaries[ON])
    return result
