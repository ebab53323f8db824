"""`srt run`: a job on this machine."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from srt_common.errors import ConfigurationError
from srt_operator import compare as comparing
from srt_operator import places, run_folder
from srt_operator.backends.site import site_of
from srt_operator.cli.reading import read_job
from srt_operator.constants import (
    EXIT_COMPLETE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Phase,
)
from srt_operator.display import display
from srt_operator.job_file import dump_job, load_job
from srt_operator.layout import RunLayout
from srt_operator.manifests.build import local_process
from srt_operator.outcome import failure_of, is_srt, show_outcome
from srt_operator.processes import members
from srt_operator.resources import SRTJob
from srt_operator.run_lines import LineFile
from srt_operator.status import SRTJobStatus


def run(  # noqa: PLR0913, PLR0917 - one parameter an option is how Typer reads a command line
    job_file: Annotated[Path, typer.Argument(metavar="JOB", help="An SRTJob as YAML.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override a field. May be repeated."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run folder.  [default: storage.path/name]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the folder's run.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move a run that is there aside.")] = False,
    no_srt: Annotated[bool, typer.Option("--no-srt", help="Stock engines, no drafting.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run with SRT off, then on, and compare.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the job and its processes; start nothing.")
    ] = False,
) -> None:
    """Run an SRTJob on this machine, as processes that end with this command."""
    wanted = list(overrides or ()) + list(comparing.NO_SRT if no_srt else ())
    text = read_job(job_file)
    job = load_job(text, overrides=wanted)
    if faults := places.local_faults(job.spec):
        raise ConfigurationError(faults=faults)
    _check_options(resume=resume, fresh=fresh, no_srt=no_srt, compare=compare)
    layout = RunLayout((run_dir or Path(job.spec.storage.path) / job.metadata.name).resolve())
    console = Console()
    if dry_run:
        _show_plan(console, job, layout)
        return
    arms = _arms(text, wanted, layout, compare=compare)
    if compare:
        run_folder.open_folder(job, layout, resume=resume, fresh=fresh)
        resume, fresh = True, False
    for arm_job, arm_layout in arms.values():
        run_folder.open_folder(arm_job, arm_layout, resume=resume, fresh=fresh)
    raise typer.Exit(asyncio.run(run_arms(console, job, layout, arms)))


def _check_options(*, resume: bool, fresh: bool, no_srt: bool, compare: bool) -> None:
    if resume and fresh:
        raise ConfigurationError(faults=["--resume and --fresh: allowed is one of them"])
    if no_srt and compare:
        raise ConfigurationError(faults=["--no-srt and --compare: allowed is one of them"])


Arms = Mapping[str, tuple[SRTJob, RunLayout]]


def _arms(text: str, overrides: list[str], layout: RunLayout, *, compare: bool) -> Arms:
    if compare:
        jobs = comparing.arms(text, overrides)
        return {arm: (job, comparing.arm_layout(layout, arm)) for arm, job in jobs.items()}
    job = load_job(text, overrides=overrides)
    return {comparing.ON if is_srt(job) else comparing.OFF: (job, layout)}


def _show_plan(console: Console, job: SRTJob, layout: RunLayout) -> None:
    site = site_of(job, layout, scratch=Path(tempfile.gettempdir(), "srt-run-..."))
    lines = [dump_job(job).rstrip(), "---", f"# run folder: {layout.root}"]
    for member in members(job.spec):
        process = local_process(job, site, member)
        variables = "".join(f"\n    {k}={v}" for k, v in sorted(process.environment.items()))
        lines.append(f"# {member.name}: {' '.join(process.command)}{variables}")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


async def run_arms(console: Console, job: SRTJob, layout: RunLayout, arms: Arms) -> int:
    """All arms, one after the other; stops at the first that does not complete. The exit status."""
    from srt_operator import local_run  # with all that a running job needs

    exit_code = EXIT_COMPLETE
    async with local_run.interruptible() as interruption:
        for arm, (arm_job, arm_layout) in arms.items():
            if local_run.is_done(arm_job, arm_layout):
                continue
            title = f"{job.metadata.name} {arm}" if len(arms) > 1 else job.metadata.name
            with display(console, title, LineFile(arm_layout.metrics)) as show:
                status = await local_run.run_arm(arm_job, arm_layout, show, interruption)
            exit_code = _exit_code(status, is_interrupted=interruption.requested.is_set())
            if status.phase is not Phase.COMPLETE:
                _explain(console, status, arm_layout)
                break
    show_outcome(console, layout)
    return exit_code


def _exit_code(status: SRTJobStatus, *, is_interrupted: bool) -> int:
    if status.phase is Phase.FAILED:
        return EXIT_FAILED
    is_done = status.phase in (Phase.COMPLETE, Phase.SUSPENDED)
    return EXIT_INTERRUPTED if is_interrupted and not is_done else EXIT_COMPLETE


def _explain(console: Console, status: SRTJobStatus, layout: RunLayout) -> None:
    if failure := failure_of(status):
        console.print(f"{failure}\nLogs: {layout.logs}", markup=False, soft_wrap=True)
        return
    how = "Suspended" if status.phase is Phase.SUSPENDED else "Interrupted"
    text = f"{how}. `srt resume {layout.root}` goes on where it was."
    console.print(text, markup=False, soft_wrap=True)
