"""Shows a run while it goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from srt_operator.run_lines import Line, LineFile, of_kind
from srt_operator.status import SRTJobStatus
from srt_operator.summary import acceptance_rate, tokens_per_step

_SHOWN_STEPS = 8
_STATE_STYLES = {"Ready": "green", "Starting": "yellow", "Stopping": "yellow", "Exited": "red"}


class Display(Protocol):
    """Something that shows a run."""

    def show(self, status: SRTJobStatus) -> None:
        """Called with each new status; shows what is new."""
        ...


@contextmanager
def display(console: Console, title: str, metrics: LineFile) -> Iterator[Display]:
    """The one that suits where ``console`` writes to."""
    if not console.is_terminal:
        yield PlainLines(console, title, metrics)
        return
    table = LiveTable(title, metrics)
    with Live(get_renderable=table.render, console=console, refresh_per_second=4, transient=False):
        yield table


class PlainLines:
    """One line for each step and for each process that changes."""

    def __init__(self, console: Console, title: str, metrics: LineFile) -> None:
        self._console = console
        self._title = title
        self._metrics = metrics
        self._states: dict[str, str] = {}
        self._num_shown = 0

    def show(self, status: SRTJobStatus) -> None:
        """Print what is new."""
        for process in status.processes:
            text = process.state
            if process.exit_code is not None:
                text += f", status {process.exit_code}"
            if process.restarts:
                text += f", restarts {process.restarts}"
            if text != self._states.get(process.name, "Absent"):
                self._say(f"{process.name}: {text}")
            self._states[process.name] = text
        lines = self._metrics.lines()
        for line in lines[self._num_shown :]:
            self._say(describe(line, status.progress.steps))
        self._num_shown = len(lines)

    def _say(self, text: str) -> None:
        self._console.print(
            f"[{self._title}] {text}", markup=False, highlight=False, soft_wrap=True
        )


class LiveTable:
    """Processes, progress and the last steps, drawn again and again."""

    def __init__(self, title: str, metrics: LineFile) -> None:
        self._title = title
        self._metrics = metrics
        self._status = SRTJobStatus()
        self._bar = Progress(
            TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._task = self._bar.add_task("steps", total=None)

    def show(self, status: SRTJobStatus) -> None:
        """Remember what to draw."""
        self._status = status
        self._bar.update(
            self._task, completed=status.progress.step, total=status.progress.steps or None
        )

    def render(self) -> RenderableType:
        """Everything."""
        return Group(self._bar, self._processes(), self._steps())

    def _processes(self) -> Text:
        text = Text(f"{self._status.phase}: ")
        for process in self._status.processes:
            style = _STATE_STYLES.get(process.state, "dim")
            suffix = f" (restarts {process.restarts})" if process.restarts else ""
            text.append(f"{process.name}{suffix}  ", style=style)
        return text

    def _steps(self) -> Table:
        table = Table(box=None, pad_edge=False)
        columns = ("step", "reward", "rollout s", "train s", "step s", "tokens/step", "accepted")
        for column in columns:
            table.add_column(column, justify="right")
        lines = self._metrics.lines()
        for line in of_kind(lines, "step")[-_SHOWN_STEPS:]:
            table.add_row(
                str(line["step"]),
                _number(line.get("reward_mean"), ".2f"),
                _number(line.get("rollout_seconds"), ".1f"),
                _number(line.get("train_seconds"), ".1f"),
                _number(line.get("step_seconds"), ".1f"),
                _number(tokens_per_step([line]), ".2f"),
                _number(acceptance_rate([line]), ".0%"),
            )
        for line in of_kind(lines, "eval")[-1:]:
            accuracy = _number(line.get("eval_accuracy"), ".1%")
            table.caption = f"accuracy {accuracy} after {line['step']} steps"
        return table


def describe(line: Line, steps: int) -> str:
    """One line of metrics.jsonl in words."""
    if line.get("kind") == "eval":
        accuracy, samples = _number(line.get("eval_accuracy"), ".1%"), line.get("eval_samples")
        return f"accuracy {accuracy} of {samples} samples after {line['step']} steps"
    parts = [
        f"step {line['step'] + 1}/{steps}",
        f"reward {_number(line.get('reward_mean'), '.2f')}",
        f"rollout {_number(line.get('rollout_seconds'), '.1f')} s",
        f"train {_number(line.get('train_seconds'), '.1f')} s",
        f"tokens per step {_number(tokens_per_step([line]), '.2f')}",
    ]
    return ", ".join(parts)


def _number(value: Any, spec: str) -> str:
    return "-" if value is None else format(value, spec)
