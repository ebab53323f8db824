"""`srt suspend`, `srt resume`, `srt cancel`, `srt delete`: of a run here, or a job of a cluster.

* A run that goes on hears of it through its ``job.yaml``, as an operator hears of an SRTJob.
* What a run here leaves behind stays until it is deleted: checkpoints, metrics, trees.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping
from typing import Any, Final

import typer
from rich.console import Console

from srt_common.errors import ConfigurationError
from srt_operator.backends.site import is_running
from srt_operator.cli import cluster
from srt_operator.cli.run import run_arms
from srt_operator.cli.targets import (
    ContextOption,
    DryRunOption,
    NamespaceOption,
    TargetArgument,
    local_run,
)
from srt_operator.constants import CANCELLED, Phase
from srt_operator.layout import RunLayout
from srt_operator.outcome import arms_of, job_of
from srt_operator.run_folder import status_in
from srt_operator.wishes import Wish, make_wish

STOP_PATIENCE_SECONDS: Final = 120.0
"""Engines may take their time to drain, the trainer to write a checkpoint."""


def suspend(
    target: TargetArgument,
    dry_run: DryRunOption = False,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Stop a run of this machine or a job of a cluster; `srt resume` goes on with it."""
    run = local_run(target, context, namespace)
    if run is None:
        wanted = {"spec": {"suspend": True}}
        _change(target, wanted, "suspended", dry_run, context, namespace)
        return
    _check_running(target, run)
    _wish(run, Wish(is_suspended=True), dry_run)
    _say(f"run/{run.root.name} suspended", dry_run)


def resume(
    target: TargetArgument,
    dry_run: DryRunOption = False,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Go on with a suspended job; a run of this machine goes on inside this command."""
    run = local_run(target, context, namespace)
    if run is None:
        wanted = {"spec": {"suspend": False}}
        _change(target, wanted, "resumed", dry_run, context, namespace)
        return
    _check_resumable(target, run)
    _wish(run, Wish(), dry_run)
    if dry_run:
        _say(f"run/{run.root.name} resumed", dry_run)
        return
    arms = {arm: (job_of(layout), layout) for arm, layout in arms_of(run).items()}
    raise typer.Exit(asyncio.run(run_arms(Console(), job_of(run), run, arms)))


def cancel(
    target: TargetArgument,
    dry_run: DryRunOption = False,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Give a job up: its processes or pods stop and it fails; what it left stays to be read."""
    run = local_run(target, context, namespace)
    if run is None:
        wanted = {"metadata": {"annotations": {CANCELLED: "true"}}}
        _change(target, wanted, "cancelled", dry_run, context, namespace)
        return
    _check_running(target, run)
    _wish(run, Wish(is_cancelled=True), dry_run)
    _say(f"run/{run.root.name} cancelled", dry_run)


def delete(
    target: TargetArgument,
    dry_run: DryRunOption = False,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Delete a job of a cluster with everything it owns, or a run of this machine with its folder.

    A run that goes on is cancelled first. Checkpoints in the folder are deleted, too.
    """
    run = local_run(target, context, namespace)
    if run is None:
        cluster.delete(target, is_dry_run=dry_run, context=context, namespace=namespace)
        _say(f"srtjob/{target} deleted", dry_run)
        return
    if not dry_run:
        if _is_running(run):
            _wish(run, Wish(is_cancelled=True), dry_run)
            _wait_for_end(target, run)
        shutil.rmtree(run.root)
    _say(f"run/{run.root.name} deleted", dry_run)


def _change(
    name: str,
    wanted: Mapping[str, Any],
    done: str,
    dry_run: bool,
    context: str | None,
    namespace: str | None,
) -> None:
    cluster.change(name, wanted, is_dry_run=dry_run, context=context, namespace=namespace)
    _say(f"srtjob/{name} {done}", dry_run)


def _say(text: str, dry_run: bool) -> None:
    typer.echo(text + (" (dry run)" if dry_run else ""))


def _layouts(run: RunLayout) -> list[RunLayout]:
    """Of a run and its arms, each once."""
    return list({layout.root: layout for layout in (run, *arms_of(run).values())}.values())


def _is_running(run: RunLayout) -> bool:
    return any(map(is_running, _layouts(run)))


def _check_running(target: str, run: RunLayout) -> None:
    if not _is_running(run):
        fault = (
            f"RUN is {target!r}: it does not run; allowed is a run that goes on. srt resume takes "
            "it up again, srt delete removes it"
        )
        raise ConfigurationError(faults=[fault])


def _check_resumable(target: str, run: RunLayout) -> None:
    if _is_running(run):
        fault = f"RUN is {target!r}: it runs; allowed is a run that was suspended or interrupted"
        raise ConfigurationError(faults=[fault])
    phases = {status_in(layout).phase for layout in arms_of(run).values()}
    if phases == {Phase.COMPLETE}:
        raise ConfigurationError(
            faults=[f"RUN is {target!r}: it is complete; srt run --set gives it more steps"]
        )


def _wish(run: RunLayout, wish: Wish, dry_run: bool) -> None:
    if not dry_run:
        for layout in _layouts(run):
            make_wish(layout, wish)


def _wait_for_end(target: str, run: RunLayout) -> None:
    deadline = time.monotonic() + STOP_PATIENCE_SECONDS
    while _is_running(run):
        if time.monotonic() > deadline:
            fault = f"RUN is {target!r}: it was cancelled and still runs after 120 s; end srt run"
            raise ConfigurationError(faults=[fault])
        time.sleep(0.2)
