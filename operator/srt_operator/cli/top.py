"""`srt top`: what jobs and their engines do now."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.live import Live

from srt_operator.backends.site import is_running
from srt_operator.cli import cluster
from srt_operator.cli.targets import (
    NAMES_A_TARGET,
    OPERATOR_NAMESPACE,
    ContextOption,
    NamespaceOption,
    OperatorNamespaceOption,
    Output,
    OutputOption,
    check_output,
    local_run,
)
from srt_operator.layout import RunLayout
from srt_operator.outcome import arms_of, job_of
from srt_operator.run_folder import status_in
from srt_operator.run_lines import Line, LineFile
from srt_operator.top import JobNow, job_now, plain, tables

REFRESH_SECONDS: Final = 2.0

Look = Callable[[], Sequence[JobNow]]


def top(
    target: Annotated[
        str | None,
        typer.Argument(metavar="RUN|JOB", help=f"{NAMES_A_TARGET} None: all of a namespace."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    operator_namespace: OperatorNamespaceOption = OPERATOR_NAMESPACE,
) -> None:
    """Show what jobs and their engines do now, again and again on a terminal until Ctrl-C.

    RUNNING and WAITING count policy rollouts. Rates are over the seconds since the reading before;
    HIT (lookups that led to a draft) and ACCEPTED (of drafted tokens) are different numbers.
    """
    check_output(output, Output.TABLE, Output.JSON)
    run = None if target is None else local_run(target, context, namespace)
    look: Look = (
        partial(cluster.jobs_now, target, context, namespace, operator_namespace)
        if run is None
        else _Run(run).now
    )
    if output is Output.JSON:
        typer.echo(json.dumps(plain(look()), indent=2))
        return
    console = Console()
    if once or not console.is_terminal:
        console.print(tables(look()))
        return
    live = Live(tables(look()), console=console, auto_refresh=False)
    with live, suppress(KeyboardInterrupt):
        while True:
            time.sleep(REFRESH_SECONDS)
            live.update(tables(look()), refresh=True)


class _Run:
    """A run of this machine that is looked at again and again."""

    def __init__(self, run: RunLayout) -> None:
        self._name = job_of(run).metadata.name
        self._arms = arms_of(run)
        self._engines = {arm: LineFile(layout.engines) for arm, layout in self._arms.items()}

    def now(self) -> list[JobNow]:
        """A row for each arm of a comparison, else one."""
        return [self._arm(arm, layout) for arm, layout in self._arms.items()]

    def _arm(self, arm: str, layout: RunLayout) -> JobNow:
        name = f"{self._name} {arm}" if len(self._arms) > 1 else self._name
        if not is_running(layout):
            return job_now(name, status_in(layout), {}, now=time.time(), note="it does not run")
        lines = self._engines[arm].lines()
        line: Line = lines[-1] if lines else {}
        note = "no engine has been read yet"
        return job_now(name, status_in(layout), line, now=time.time(), note=note)
