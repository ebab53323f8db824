"""`srt trace`: where the time of a step or of a rollout went."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from srt_common.errors import ConfigurationError
from srt_common.telemetry.span_file import SpanRecord, read_folder
from srt_operator.cli.targets import local_run
from srt_operator.outcome import arms_of
from srt_operator.trace_tree import Node, Spans, text_of

NUM_ROLLOUTS: Final = 4


def trace(
    target: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder, or the name of one in ./runs.")
    ],
    step: Annotated[
        int | None, typer.Option("--step", min=0, help="Which.  [default: the last one]")
    ] = None,
    rollout: Annotated[
        str | None, typer.Option("--rollout", help="Show this rollout instead of a step.")
    ] = None,
    num_rollouts: Annotated[
        int, typer.Option("--rollouts", min=0, help="How many, the slowest, below a step's batch.")
    ] = NUM_ROLLOUTS,
) -> None:
    """Print the trace of one step or of one rollout of a run as a tree.

    Each line: start, duration, span, who says so, what it says. Of a comparison: its arm with SRT.
    """
    run = local_run(target, None, None)
    if run is None:
        fault = (
            f"RUN is {target!r}: allowed is a run of this machine; traces of a cluster go to its "
            f"chart's telemetry.otlpEndpoint, look there for srt.job.name={target}"
        )
        raise ConfigurationError(faults=[fault])
    layout = list(arms_of(run).values())[-1]
    spans = Spans(read_folder(layout.telemetry))
    console = Console()
    for node in _wanted(spans, step, rollout, num_rollouts):
        console.print(_drawn(node, node.span), soft_wrap=True)


def _wanted(spans: Spans, step: int | None, rollout: str | None, num_rollouts: int) -> list[Node]:
    """Raises ConfigurationError: there is no such trace."""
    if rollout is not None:
        if not (attempts := spans.rollout(rollout)):
            fault = f"--rollout is {rollout!r}: allowed are those srt trace RUN --step N shows"
            raise ConfigurationError(faults=[fault])
        return attempts
    steps = spans.steps()
    wanted = steps[-1] if step is None and steps else step
    node = None if wanted is None else spans.step(wanted, num_rollouts=num_rollouts)
    if node is None:
        allowed = f"{steps[0]} to {steps[-1]}" if steps else "none yet, no step has ended"
        raise ConfigurationError(faults=[f"--step is {wanted}: allowed are {allowed}"])
    return [node]


def _drawn(node: Node, root: SpanRecord) -> Tree:
    tree = Tree(Text(text_of(node.span, root)))
    for child in node.children:
        tree.add(_drawn(child, root))
    if node.num_hidden:
        tree.add(Text(f"and {node.num_hidden} rollouts more; --rollouts shows them"))
    return tree
