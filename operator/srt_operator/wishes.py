"""What a user wants of a run on this machine, said in its ``job.yaml`` as in a cluster's SRTJob.

* ``srt suspend`` sets ``spec.suspend`` there, ``srt cancel`` the annotation that a cluster knows
  too; whoever runs the job looks at the file in every round.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from srt_common.errors import ConfigurationError
from srt_operator.constants import CANCELLED
from srt_operator.job_file import dump_job, load_job
from srt_operator.layout import RunLayout
from srt_operator.resources import SRTJob
from srt_operator.run_lines import replace_text


@dataclass(frozen=True, slots=True)
class Wish:
    """What may change while a job runs."""

    is_suspended: bool = False
    is_cancelled: bool = False


def wish_of(job: SRTJob) -> Wish:
    """What a job says."""
    return Wish(
        is_suspended=job.spec.suspend,
        is_cancelled=job.metadata.annotations.get(CANCELLED) == "true",
    )


def make_wish(layout: RunLayout, wish: Wish) -> None:
    """Write a wish into the job of a run folder. Raises ConfigurationError: no job lies there."""
    job = load_job(layout.job.read_text())
    others = {key: text for key, text in job.metadata.annotations.items() if key != CANCELLED}
    annotations = others | ({CANCELLED: "true"} if wish.is_cancelled else {})
    metadata = job.metadata.model_copy(update={"annotations": annotations})
    spec = job.spec.model_copy(update={"suspend": wish.is_suspended})
    wanted = job.model_copy(update={"metadata": metadata, "spec": spec})
    replace_text(layout.job, dump_job(wanted))


class Wishes:
    """The wish in a job file that is looked at again and again; read only when it has changed."""

    def __init__(self, path: Path, *, begun_with: Wish) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._wish = begun_with

    def now(self) -> Wish:
        """The last one that could be read: a file that is gone or spoilt changes nothing."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_ino)
            if seen != self._seen:
                self._wish = wish_of(load_job(self._path.read_text()))
                self._seen = seen
        except (OSError, ConfigurationError):
            return self._wish
        return self._wish
