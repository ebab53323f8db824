"""Where a command looks: a run of this machine, or a job of a cluster."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from srt_common.errors import ConfigurationError
from srt_operator.backends.site import is_running
from srt_operator.layout import RunLayout
from srt_operator.outcome import arms_of, run_folder

RUNS: Final = Path("runs")
"""Where `srt run` puts runs by default; one there may be named without its folder."""
NAMES_A_TARGET: Final = "A run folder, the name of one in ./runs, or an SRTJob's name."


class Output(StrEnum):
    """How resources are shown."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


ContextOption = Annotated[
    str | None,
    typer.Option("--context", help="Cluster, by its kubeconfig context.  [default: the current]"),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="In the cluster.  [default: the context's]"),
]
OPERATOR_NAMESPACE: Final = "srt-system"
OperatorNamespaceOption = Annotated[
    str,
    typer.Option(
        "--operator-namespace",
        help=f"Where the release with the operator is.  [default: {OPERATOR_NAMESPACE}]",
        show_default=False,
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How it is shown.")]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Check it, in a cluster by its API server; change nothing."),
]
TargetArgument = Annotated[str, typer.Argument(metavar="RUN|JOB", help=NAMES_A_TARGET)]


def local_run(target: str, context: str | None, namespace: str | None) -> RunLayout | None:
    """The run folder that is meant; None: a job of a cluster is.

    A name with a slash is a folder. A plain name is a run here, if there is one and neither context
    nor namespace is given. Raises ConfigurationError: not a run folder.
    """
    if "/" in target:
        return run_folder(Path(target))
    if context is None and namespace is None:
        for folder in (Path(target), RUNS / target):
            if RunLayout(folder).job.exists():
                return run_folder(folder)
    return None


def layouts_of(run: RunLayout) -> list[RunLayout]:
    """Of a run and its arms, each once."""
    return list({layout.root: layout for layout in (run, *arms_of(run).values())}.values())


def is_going_on(run: RunLayout) -> bool:
    """Whether somebody works on a run or one of its arms."""
    return any(map(is_running, layouts_of(run)))


def check_output(output: Output, *allowed: Output) -> None:
    """Raises ConfigurationError: the command does not have this output."""
    if output not in allowed:
        fault = f"--output is {str(output)!r}: allowed are {', '.join(allowed)}"
        raise ConfigurationError(faults=[fault])
