"""Figures of a report as SVG text.

* One arm is one colour everywhere.
* A figure without data is None, and the page leaves it out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from srt_operator.intervals import wilson
from srt_operator.run_lines import Line, of_kind
from srt_operator.summary import Summary, acceptance_rate, tokens_per_step

COLOURS: Final = {"off": "#8a8a8a", "on": "#1f6fb2"}
NAMES: Final = {"off": "SRT off", "on": "SRT on"}
BUBBLE_COLOURS: Final = {"train": "#e0a030", "long_tail": "#7a5195"}
PHASES: Final = ("rollout_seconds", "reward_seconds", "train_seconds", "weight_sync_seconds")
PHASE_COLOURS: Final = ("#1f6fb2", "#7fbf7b", "#e0a030", "#b2182b")
_SIZE: Final = (7.2, 2.9)


@dataclass(frozen=True, slots=True)
class ArmLines:
    """Line files of one arm, as figures need them."""

    metrics: Sequence[Line]
    bubbles: Sequence[Line]

    def of(self, kind: str) -> list[Line]:
        """Metric lines of a kind."""
        return of_kind(list(self.metrics), kind)


Arms = Mapping[str, ArmLines]


def learning_curve(arms: Arms) -> str | None:
    """Accuracy over steps with 95 % intervals, and the mean reward of each step."""
    if not any(arm.of("eval") or arm.of("step") for arm in arms.values()):
        return None
    figure, axes = _axes("optimizer steps", "accuracy or mean reward")
    for name, arm in arms.items():
        steps = arm.of("step")
        rewards = [line["reward_mean"] for line in steps]
        axes.plot([s["step"] + 1 for s in steps], rewards, ":", color=COLOURS[name], alpha=0.7)
        evals = arm.of("eval")
        if not evals:
            continue
        accuracies = [line["eval_accuracy"] for line in evals]
        bounds = [wilson(line["eval_accuracy"], line["eval_samples"]) for line in evals]
        below = [a - low for a, (low, _) in zip(accuracies, bounds, strict=True)]
        above = [high - a for a, (_, high) in zip(accuracies, bounds, strict=True)]
        at = [line["step"] for line in evals]
        label = f"{NAMES[name]}: held-out accuracy"
        axes.errorbar(
            at, accuracies, (below, above), fmt="o-", capsize=3, color=COLOURS[name], label=label
        )
    axes.plot([], [], ":", color="black", label="mean reward of a step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False)
    return _svg(figure)


def phase_times(arms: Arms) -> str | None:
    """Seconds of each step by phase, one panel an arm."""
    drawn = {name: arm.of("step") for name, arm in arms.items() if arm.of("step")}
    if not drawn:
        return None
    figure = _figure()
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for panel, (name, steps) in zip(panels, drawn.items(), strict=True):
        _stack_phases(panel, steps)
        panel.set_title(NAMES[name], fontsize=9)
        panel.set_xlabel("optimizer step")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("seconds")
    panels[-1].legend(fontsize=8, frameon=False)
    return _svg(figure)


def drafting(arms: Arms) -> str | None:
    """Tokens per step over optimizer steps, and the share of drafted tokens accepted."""
    drawn = {name: arm.of("step") for name, arm in arms.items() if arm.of("step")}
    if not drawn:
        return None
    figure = _figure()
    left, right = figure.subplots(1, 2)
    for name, steps in drawn.items():
        _line(left, steps, tokens_per_step, name)
        _line(right, steps, acceptance_rate, name)
    left.set_ylabel("tokens per step")
    left.set_ylim(bottom=0)
    right.set_ylabel("drafted tokens accepted")
    right.set_ylim(0, 1)
    for axes in (left, right):
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(fontsize=8, frameon=False)
    return _svg(figure)


def accepted_sources(summary: Summary) -> str | None:
    """What accepted draft tokens came from."""
    shares = summary.get("accepted_fraction_by_source") or {}
    if not any(shares.values()):
        return None
    figure, axes = _axes("share of accepted draft tokens", "", height=1.6)
    names = {"history": "earlier policies", "online": "this policy", "run_ahead": "run-ahead"}
    values = [shares[source] or 0.0 for source in names]
    bars = axes.barh(list(names.values()), values, color=["#8a8a8a", "#1f6fb2", "#e0a030"])
    axes.bar_label(bars, labels=[f"{value:.0%}" for value in values], padding=3, fontsize=8)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    return _svg(figure)


def bubble_strip(arm: ArmLines) -> str | None:
    """When each engine was in a bubble; the darker a bubble, the fuller."""
    bubbles = of_kind(list(arm.bubbles), "bubble")
    if not bubbles:
        return None
    engines = sorted({line["engine"] for line in bubbles})
    start = min(line["opened_at_unix"] for line in bubbles)
    figure, axes = _axes("seconds since the first bubble", "", height=1.0 + 0.4 * len(engines))
    for line in bubbles:
        free = line["free_slot_seconds"]
        filled = line["run_ahead_slot_seconds"] / free if free else 0.0
        axes.barh(
            engines.index(line["engine"]),
            line["seconds"],
            left=line["opened_at_unix"] - start,
            color=BUBBLE_COLOURS[line["type"]],
            alpha=0.25 + 0.75 * min(1.0, filled),
        )
    for kind, colour in BUBBLE_COLOURS.items():
        axes.barh([0], [0], color=colour, label=kind.replace("_", " "))
    axes.set_yticks(range(len(engines)), engines)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    return _svg(figure)


def _stack_phases(panel: Axes, steps: Sequence[Line]) -> None:
    at = [line["step"] + 1 for line in steps]
    bottom = [0.0] * len(steps)
    for phase, colour in zip(PHASES, PHASE_COLOURS, strict=True):
        heights = [line.get(phase) or 0.0 for line in steps]
        label = phase.removesuffix("_seconds").replace("_", " ")
        panel.bar(at, heights, bottom=bottom, color=colour, label=label)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]


def _line(
    axes: Axes, steps: Sequence[Line], value: Callable[[Sequence[Line]], float | None], name: str
) -> None:
    points = [(line["step"] + 1, value([line])) for line in steps]
    known = [(at, y) for at, y in points if y is not None]
    axes.plot(
        [at for at, _ in known],
        [y for _, y in known],
        ".-",
        color=COLOURS[name],
        label=NAMES[name],
    )


def _figure(height: float = _SIZE[1]) -> Figure:
    return Figure(figsize=(_SIZE[0], height), layout="constrained")


def _axes(x_label: str, y_label: str, *, height: float = _SIZE[1]) -> tuple[Figure, Any]:
    figure = _figure(height)
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element: text stays text, nothing is fetched."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "srt"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
