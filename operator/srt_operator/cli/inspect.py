"""`srt get`, `srt logs`: look at a run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from srt_common.errors import ConfigurationError
from srt_operator.cli import cluster
from srt_operator.cli.cluster import ContextOption, NamespaceOption, Output, OutputOption
from srt_operator.layout import RunLayout
from srt_operator.outcome import arms_of, run_folder
from srt_operator.status import SRTJobStatus

FOLLOW_SECONDS = 0.3

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/x.")]


Target = Annotated[
    str | None,
    typer.Argument(metavar="RUN|JOB", help="A run folder, such as runs/x, or an SRTJob's name."),
]


def get(
    target: Target = None,
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show a run of this machine, or a job of a cluster; without a name, the cluster's jobs."""
    if target is None or not _is_folder(target):
        cluster.show(target, output, context, namespace)
        return
    layouts = arms_of(run_folder(Path(target))).values()
    if output is Output.JSON:
        statuses = {layout.root.name: _status(layout) for layout in layouts}
        plain = {name: status.model_dump(mode="json") for name, status in statuses.items()}
        typer.echo(json.dumps(plain, indent=2))
        return
    console = Console()
    for layout in layouts:
        status = _status(layout)
        progress = f"step {status.progress.step} of {status.progress.steps}"
        console.print(f"{layout.root.name}: {status.phase}, {progress}", markup=False)
        console.print(_process_table(status), _condition_table(status))


def logs(
    target: Annotated[
        str, typer.Argument(metavar="RUN|JOB", help="A run folder, or an SRTJob's name.")
    ],
    process: Annotated[
        str | None, typer.Argument(help="Process, such as rollout-0; none: list them.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Print the log of one process of a run, or of a job of a cluster."""
    if not _is_folder(target):
        cluster.show_log(target, process, follow=follow, context=context, namespace=namespace)
        return
    run = Path(target)
    layout = run_folder(run)
    names = sorted(path.stem for path in layout.logs.glob("*.log"))
    if not names:
        fault = f"RUN is {str(run)!r}: allowed is a run folder with logs, such as runs/x/on"
        raise ConfigurationError(faults=[fault])
    if process is None:
        typer.echo("\n".join(names))
        return
    if process not in names:
        fault = f"PROCESS is {process!r}: allowed are {', '.join(names)}"
        raise ConfigurationError(faults=[fault])
    for text in _tail(layout.log_of(process), follow=follow):
        typer.echo(text, nl=False)


def _is_folder(target: str) -> bool:
    """Whether a name is meant as a folder: names of jobs have no slash."""
    return "/" in target or Path(target).is_dir()


def _status(layout: RunLayout) -> SRTJobStatus:
    try:
        return SRTJobStatus.model_validate_json(layout.status.read_text())
    except (OSError, ValidationError):
        return SRTJobStatus()


def _tail(path: Path, *, follow: bool) -> Iterator[str]:
    with path.open(errors="replace") as file:
        while True:
            if text := file.read():
                yield text
            elif follow:
                time.sleep(FOLLOW_SECONDS)
            else:
                return


def _process_table(status: SRTJobStatus) -> Table:
    table = Table("process", "state", "restarts", "last exit", box=None)
    for process in status.processes:
        exit_code = "" if process.exit_code is None else str(process.exit_code)
        table.add_row(process.name, process.state, str(process.restarts), exit_code)
    return table


def _condition_table(status: SRTJobStatus) -> Table:
    table = Table("condition", "status", "reason", box=None)
    table.add_column("since", no_wrap=True)
    table.add_column("message")
    for condition in status.conditions:
        table.add_row(
            condition.type,
            condition.status,
            condition.reason,
            condition.last_transition_time,
            condition.message,
        )
    return table
