"""`srt doctor`, `srt verify`, `srt report`: tools around runs."""

from __future__ import annotations

import asyncio
import sys

import typer
from rich.console import Console

from srt_operator import doctor as checks
from srt_operator.constants import EXIT_COMPLETE, EXIT_FAILED


def doctor() -> None:
    """Check whether this machine can run SRT; each line says ok or what to do."""
    console = Console()
    findings = checks.examine()
    for finding in findings:
        mark = "ok  " if finding.is_ok else "FIX " if finding.is_required else "note"
        console.print(
            f"{mark} {finding.what}: {finding.text}", markup=False, highlight=False, soft_wrap=True
        )
    failed = any(finding.is_required and not finding.is_ok for finding in findings)
    raise typer.Exit(EXIT_FAILED if failed else EXIT_COMPLETE)


def verify(context: typer.Context) -> None:
    """Test on this machine that drafting does not change what is sampled (losslessness).

    Everything after `verify` is passed on: srt verify MODEL --full. Exit 1: it is biased.
    """
    raise typer.Exit(asyncio.run(_run_module("srt_rollout.verify", context.args)))


async def _run_module(module: str, arguments: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments)
    return await process.wait()
