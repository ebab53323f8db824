"""`srt get`, `srt watch`, `srt logs`: look at a run, or at a job of a cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from srt_common.errors import ConfigurationError
from srt_operator.cli import cluster
from srt_operator.cli.showing import show_jobs
from srt_operator.cli.targets import (
    NAMES_A_TARGET,
    RUNS,
    ContextOption,
    NamespaceOption,
    Output,
    OutputOption,
    TargetArgument,
    is_going_on,
    local_run,
)
from srt_operator.constants import EXIT_COMPLETE, EXIT_FAILED, SETTLED, Phase
from srt_operator.display import display
from srt_operator.layout import RunLayout
from srt_operator.outcome import arms_of, job_of, run_folder
from srt_operator.run_folder import status_in
from srt_operator.run_lines import LineFile
from srt_operator.status import SRTJobStatus

FOLLOW_SECONDS: Final = 0.3
QUIET_SECONDS: Final = 5.0
"""So long nobody may work on a run before it counts as left: between two arms nobody does."""

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/x.")]


def get(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|JOB",
            help=f"{NAMES_A_TARGET} A folder of runs: all in it. None: all of a namespace.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show runs of this machine, or jobs of a cluster."""
    if target is not None and (runs := _runs_in(Path(target))):
        show_jobs([_document(_last_arm(run)) for run in runs], output, is_list=True)
        return
    run = None if target is None else local_run(target, context, namespace)
    if run is None:
        cluster.show(target, output, context, namespace)
        return
    layouts = list(arms_of(run).values())
    if output is not Output.TABLE:
        show_jobs([_document(layout) for layout in layouts], output, is_list=len(layouts) > 1)
        return
    console = Console()
    for layout in layouts:
        status = status_in(layout)
        progress = f"step {status.progress.step} of {status.progress.steps}"
        console.print(f"{layout.root.name}: {status.phase}, {progress}", markup=False)
        console.print(_process_table(status), _condition_table(status))


def watch(
    target: TargetArgument, context: ContextOption = None, namespace: NamespaceOption = None
) -> None:
    """Follow a run of this machine or a job of a cluster until it ends; the exit status says how.

    A run of this machine also ends when it is suspended or nobody works on it any more (1).
    """
    run = local_run(target, context, namespace)
    if run is None:
        raise typer.Exit(cluster.watch(target, context, namespace))
    console = Console()
    phase = Phase.PENDING
    for arm, layout in arms_of(run).items():
        title = f"{job_of(run).metadata.name} {arm}" if layout != run else run.root.name
        phase = _follow(console, title, layout, run)
        if phase is not Phase.COMPLETE:
            console.print(f"{title}: {phase}", markup=False)
            break
    raise typer.Exit(EXIT_COMPLETE if phase is Phase.COMPLETE else EXIT_FAILED)


def logs(
    target: TargetArgument,
    process: Annotated[
        str | None, typer.Argument(help="Process, such as rollout-0; none: list them.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Print the log of one process of a run, or of a job of a cluster."""
    layout = local_run(target, context, namespace)
    if layout is None:
        cluster.show_log(target, process, follow=follow, context=context, namespace=namespace)
        return
    names = sorted(path.stem for path in layout.logs.glob("*.log"))
    if not names:
        fault = f"RUN is {target!r}: allowed is a run folder with logs, such as runs/x/on"
        raise ConfigurationError(faults=[fault])
    if process is None:
        typer.echo("\n".join(names))
        return
    if process not in names:
        fault = f"PROCESS is {process!r}: allowed are {', '.join(names)}"
        raise ConfigurationError(faults=[fault])
    for text in _tail(layout.log_of(process), follow=follow):
        typer.echo(text, nl=False)


def _runs_in(folder: Path) -> list[RunLayout]:
    """Runs in a folder that is none itself; a plain name but for `RUNS` is a run's or a job's."""
    is_meant = folder == RUNS or len(folder.parts) > 1
    if not is_meant or RunLayout(folder).job.exists():
        return []
    return [run_folder(job.parent) for job in sorted(folder.glob("*/job.yaml"))]


def _last_arm(run: RunLayout) -> RunLayout:
    """Of a run: the arm that was begun last."""
    arms = list(arms_of(run).values())
    return [arms[0], *(arm for arm in arms if arm.status.exists())][-1]


def _document(layout: RunLayout) -> dict[str, Any]:
    """A run as a cluster shows a job."""
    job = job_of(layout).model_dump(mode="json", by_alias=True, exclude_none=True)
    status = status_in(layout).model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**job, "status": status}


def _follow(console: Console, title: str, layout: RunLayout, run: RunLayout) -> Phase:
    """Show one arm until it is settled or nobody works on the run; its last phase."""
    last_seen = time.monotonic()
    with display(console, title, LineFile(layout.metrics)) as shown:
        while True:
            status = status_in(layout)
            shown.show(status)
            now = time.monotonic()
            if is_going_on(run):
                last_seen = now
            if status.phase in SETTLED or now - last_seen > QUIET_SECONDS:
                return status.phase
            time.sleep(FOLLOW_SECONDS)


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
