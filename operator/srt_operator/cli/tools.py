"""`srt verify`, `srt simulate`, `srt report`: tools around runs."""

from __future__ import annotations

import asyncio
import sys

import typer
from rich.console import Console

from srt_common.errors import ConfigurationError
from srt_operator.cli.inspect import RunFolder
from srt_operator.outcome import run_folder, show_outcome


def verify(context: typer.Context) -> None:
    """Test on this machine that drafting does not change what is sampled (losslessness).

    Everything after `verify` is passed on: srt verify MODEL --full. Exit 1: it is biased.
    """
    raise typer.Exit(_pass_on("srt_rollout.verify", context))


def simulate(context: typer.Context) -> None:
    """Replay recorded rollouts and say what drafting would gain; no model runs.

    Everything after `simulate` is passed on; srt simulate --help lists it. SOURCE is an .npz
    trace, a run folder or .jsonl of token ids.
    """
    raise typer.Exit(_pass_on("srt_common.simulate", context))


def report(run: RunFolder) -> None:
    """Write summary.json and report.html of a run anew, and show the table."""
    layout = run_folder(run)
    if not show_outcome(Console(), layout):
        fault = f"RUN is {str(run)!r}: it has no metrics yet; wait for its first step"
        raise ConfigurationError(faults=[fault])


def _pass_on(module: str, context: typer.Context) -> int:
    """Run a module with the command's arguments; its help gets our examples."""
    exit_code = asyncio.run(_run_module(module, context.args))
    if "--help" in context.args:
        typer.echo(f"\n{context.command.epilog}")
    return exit_code


async def _run_module(module: str, arguments: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments)
    return await process.wait()
