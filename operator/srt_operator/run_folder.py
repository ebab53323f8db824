"""Opens the folder of a run. Nothing that is there is ever lost.

* New: the folder does not exist or is empty.
* Resume: it holds a run of the same job; what a run cannot change must be equal.
* Fresh: what is there is moved aside first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from srt_common.errors import ConfigurationError
from srt_operator.job_file import dump_job, load_job
from srt_operator.layout import RunLayout
from srt_operator.resources import SRTJob

FIXED: Final = (
    "spec.model",
    "spec.dataset",
    "spec.sampling",
    "spec.algorithm.type",
    "spec.algorithm.promptsPerStep",
    "spec.algorithm.rolloutsPerPrompt",
    "spec.algorithm.seed",
    "spec.treeCache.template.shards",
)
"""What a run keeps for life."""


def open_folder(job: SRTJob, layout: RunLayout, *, resume: bool, fresh: bool) -> None:
    """Make the folder ready for `job` and leave ``job.yaml`` in it.

    Raises:
        ConfigurationError: it holds a run and neither ``resume`` nor ``fresh`` was asked for, or
            that run's job was another one.
    """
    has_run = layout.root.exists() and any(layout.root.iterdir())
    if has_run and fresh:
        move_aside(layout.root)
    elif has_run and resume:
        _check_same(job, layout)
    elif has_run:
        fault = (
            f"{layout.root} holds a run: allowed are --resume to go on with it, --fresh to move it "
            "aside first, or another --run-dir"
        )
        raise ConfigurationError(faults=[fault])
    layout.root.mkdir(parents=True, exist_ok=True)
    layout.job.write_text(dump_job(job))


def move_aside(folder: Path) -> Path:
    """Rename ``runs/x`` to the first free of ``runs/x.1``, ``runs/x.2``, ..."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(target)


def _check_same(job: SRTJob, layout: RunLayout) -> None:
    if not layout.job.exists():
        return
    before, after = _plain(load_job(layout.job.read_text())), _plain(job)
    faults = [
        f"{path} is {_at(after, path)!r}: allowed is {_at(before, path)!r}, as the run was begun"
        for path in FIXED
        if _at(before, path) != _at(after, path)
    ]
    steps = "spec.algorithm.steps"
    if _at(after, steps) < _at(before, steps):
        faults.append(
            f"{steps} is {_at(after, steps)}: allowed is {_at(before, steps)} or more, "
            "as the run was begun"
        )
    if faults:
        raise ConfigurationError(faults=faults)


def _plain(job: SRTJob) -> dict[str, Any]:
    return job.model_dump(mode="json", by_alias=True)


def _at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document[name]
    return document
