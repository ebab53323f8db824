"""Opens the folder of a run. Nothing that is there is ever lost.

* New: the folder does not exist or is empty.
* Resume: it holds a run of the same job; what a run cannot change must be equal.
* Fresh: what is there is moved aside first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from srt_common.errors import ConfigurationError
from srt_operator import rules
from srt_operator.job_file import dump_job, load_job
from srt_operator.layout import RunLayout
from srt_operator.resources import SRTJob
from srt_operator.status import SRTJobStatus, read_status

_MAY_MOVE: Final = frozenset({"spec.storage.path"})
"""Of what a cluster fixes: a local run is where its folder is."""


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


def status_in(layout: RunLayout) -> SRTJobStatus:
    """What was last said of a run; nothing, where nobody has said anything yet."""
    try:
        document = json.loads(layout.status.read_text())
    except (OSError, ValueError):
        return SRTJobStatus()
    return read_status(document)


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
    if faults := rules.changes(before, after, skip=_MAY_MOVE):
        raise ConfigurationError(faults=faults)


def _plain(job: SRTJob) -> dict[str, Any]:
    return job.model_dump(mode="json", by_alias=True)
