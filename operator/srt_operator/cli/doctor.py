"""`srt doctor`: can this machine, or a cluster, run SRT?"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console

from srt_operator.cli.cluster import ask
from srt_operator.cli.targets import (
    OPERATOR_NAMESPACE,
    ContextOption,
    NamespaceOption,
    OperatorNamespaceOption,
    Output,
    OutputOption,
    check_output,
)
from srt_operator.constants import EXIT_COMPLETE, EXIT_FAILED
from srt_operator.doctor import machine
from srt_operator.doctor.base import Check, has_failed


def doctor(
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    operator_namespace: OperatorNamespaceOption = OPERATOR_NAMESPACE,
) -> None:
    """Check whether this machine can run SRT, or, with --context or --namespace, a cluster.

    Each line says OK, WARN or FAIL and what to do; exit status 1 with any FAIL.
    """
    check_output(output, Output.TABLE, Output.JSON)
    if context is None and namespace is None:
        checks = machine.examine()
    else:
        checks = _of_cluster(context, namespace, operator_namespace)
    if output is Output.JSON:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        console = Console()
        for check in checks:
            text = f"{check.level:<4} {check.what}: {check.text}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_FAILED if has_failed(checks) else EXIT_COMPLETE)


def _of_cluster(context: str | None, namespace: str | None, operator_namespace: str) -> list[Check]:
    from srt_operator.doctor import cluster

    async def look(api: Any, where: str) -> list[Check]:
        place = cluster.Place(
            api=api, namespace=where, operator_namespace=operator_namespace, now=time.time()
        )
        return await cluster.examine(place)

    checks: list[Check] = ask(look, context, namespace)
    return checks
