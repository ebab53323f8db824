"""`srt suspend`, `srt resume`, `srt cancel`, `srt delete`: of a run here, or a job of a cluster.

* A run that goes on hears of it through its ``job.yaml``, as an operator hears of an SRTJob.
* What a run here leaves behind stays until it is deleted: checkpoints, metrics, trees.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import typer
from rich.console import Console

from srt_common.errors import ConfigurationError
from srt_operator.cli import cluster
from srt_operator.cli.run import run_arms
from srt_operator.cli.targets import (
    ContextOption,
    DryRunOption,
    NamespaceOption,
    TargetArgument,
    is_going_on,
    layouts_of,
    local_run,
)
from srt_operator.constants import CANCELLED, Phase
from srt_operator.layout import RunLayout
from srt_operator.outcome import arms_of, job_of
from srt_operator.run_folder import status_in
from srt_operator.wishes import Wish, make_wish

STOP_PATIENCE_SECONDS: Final = 120.0
"""Engines may take their time to drain, the trainer to write a checkpoint."""


@dataclass(frozen=True, slots=True)
class _Change:
    """What a command asks for: of a job of a cluster, and of a run here."""

    wanted: Mapping[str, Any]
    wish: Wish
    done: str


_SUSPENDED: Final = _Change({"spec": {"suspend": True}}, Wish(is_suspended=True), "suspended")
_RESUMED: Final = _Change({"spec": {"suspend": False}}, Wish(), "resumed")
_CANCELLED: Final = _Change(
    {"metadata": {"annotations": {CANCELLED: "true"}}}, Wish(is_cancelled=True), "cancelled"
)


def suspend(
    target: TargetArgument,
    dry_run: DryRunOption = False,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Stop a run of this machine or a job of a cluster; `srt resume` goes on with it."""
    _stop(target, _SUSPENDED, dry_run, context, namespace)


def resume(
    target: TargetArgument,
    dry_run: DryRunOption = False,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Go on with a suspended job; a run of this machine goes on inside this command."""
    run = _change(target, _RESUMED, _check_resumable, dry_run, context, namespace)
    if run is None:
        return
    if dry_run:
        _say(f"run/{run.root.name} {_RESUMED.done}", dry_run)
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
    _stop(target, _CANCELLED, dry_run, context, namespace)


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
        if is_going_on(run):
            _wish(run, Wish(is_cancelled=True), dry_run)
            _wait_for_end(target, run)
        shutil.rmtree(run.root)
    _say(f"run/{run.root.name} deleted", dry_run)


def _stop(
    target: str, change: _Change, dry_run: bool, context: str | None, namespace: str | None
) -> None:
    run = _change(target, change, _check_running, dry_run, context, namespace)
    if run is not None:
        _say(f"run/{run.root.name} {change.done}", dry_run)


def _change(
    target: str,
    change: _Change,
    check: Callable[[str, RunLayout], None],
    dry_run: bool,
    context: str | None,
    namespace: str | None,
) -> RunLayout | None:
    """Have it changed; the run, if it is one of this machine, after ``check`` has let it pass."""
    run = local_run(target, context, namespace)
    if run is None:
        cluster.change(
            target, change.wanted, is_dry_run=dry_run, context=context, namespace=namespace
        )
        _say(f"srtjob/{target} {change.done}", dry_run)
        return None
    check(target, run)
    _wish(run, change.wish, dry_run)
    return run


def _say(text: str, dry_run: bool) -> None:
    typer.echo(text + (" (dry run)" if dry_run else ""))


def _check_running(target: str, run: RunLayout) -> None:
    if not is_going_on(run):
        fault = (
            f"RUN is {target!r}: it does not run; allowed is a run that goes on. srt resume takes "
            "it up again, srt delete removes it"
        )
        raise ConfigurationError(faults=[fault])


def _check_resumable(target: str, run: RunLayout) -> None:
    if is_going_on(run):
        fault = f"RUN is {target!r}: it runs; allowed is a run that was suspended or interrupted"
        raise ConfigurationError(faults=[fault])
    phases = {status_in(layout).phase for layout in arms_of(run).values()}
    if phases == {Phase.COMPLETE}:
        raise ConfigurationError(
            faults=[f"RUN is {target!r}: it is complete; srt run --set gives it more steps"]
        )


def _wish(run: RunLayout, wish: Wish, dry_run: bool) -> None:
    if not dry_run:
        for layout in layouts_of(run):
            make_wish(layout, wish)


def _wait_for_end(target: str, run: RunLayout) -> None:
    deadline = time.monotonic() + STOP_PATIENCE_SECONDS
    while is_going_on(run):
        if time.monotonic() > deadline:
            fault = f"RUN is {target!r}: it was cancelled and still runs after 120 s; end srt run"
            raise ConfigurationError(faults=[fault])
        time.sleep(0.2)
