"""The traces page as one drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from traces import Measured

mpl.rcParams["svg.hashsalt"] = "srt"  # the same figures give the same file
COLOURS = {"srt": "#1b7f5c", "suffix": "#b5542b", "prompt-lookup": "#8a8a8a"}


def draw(
    exact: Sequence[Measured], text: Sequence[Measured], replicas: Sequence[Measured], path: Path
) -> None:
    """Four panels: both kinds of quality, sharing, cost."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    panels = figure.subplots(2, 2)
    equal = [it for it in text if it.setting == "equal drafts"]
    cost = [it for it in equal if it.arm != "prompt-lookup"]
    _bars(panels[0, 0], _heights(exact, _tokens), "testbed: tokens per step, sampled drafts")
    _bars(panels[0, 1], _heights(equal, _tokens), "traces: tokens per step, equal drafts")
    _bars(panels[1, 0], _kept(replicas), "8 replicas: part of one cache's value")
    _bars(panels[1, 1], _heights(cost, _step_cost), "CPU us a request-step: propose, insert")
    figure.savefig(path, metadata={"Date": None})


def _tokens(it: Measured) -> float:
    return it.figures["tokens_per_step"]


def _step_cost(it: Measured) -> float:
    inserting = it.figures["insert_us_per_token"] * it.figures["tokens_per_step"]
    return it.figures["propose_us_p50"] + inserting


Bar = tuple[str, str, float]
"""(group, arm, height)."""


def _heights(items: Sequence[Measured], height: Callable[[Measured], float]) -> list[Bar]:
    return [(f"{it.source}\n{it.setting}", it.arm, height(it)) for it in items]


def _kept(replicas: Sequence[Measured]) -> list[Bar]:
    found = {(it.source, it.setting, it.arm): _tokens(it) for it in replicas}
    return [
        (source, arm, found[source, "8 replicas", arm] / found[source, "1 replica", arm])
        for source in dict.fromkeys(it.source for it in replicas)
        for arm in ("srt", "suffix")
    ]


def _bars(panel: Any, bars: Sequence[Bar], title: str) -> None:
    groups = list(dict.fromkeys(group for group, _, _ in bars))
    arms = [arm for arm in COLOURS if any(arm == it for _, it, _ in bars)]
    for number, arm in enumerate(arms):
        own = [(groups.index(group), value) for group, it, value in bars if it == arm]
        places = [at + (number - (len(arms) - 1) / 2) * 0.8 / len(arms) for at, _ in own]
        drawn = panel.bar(
            places, [value for _, value in own], 0.8 / len(arms), label=arm, color=COLOURS[arm]
        )
        panel.bar_label(drawn, fmt="%.2f", fontsize=6)
    panel.set_title(title, fontsize=10)
    panel.set_xticks(range(len(groups)), groups, fontsize=6)
    panel.margins(y=0.2)  # room for the legend
    panel.spines[["top", "right"]].set_visible(False)
    if arms:
        panel.legend(fontsize=7, frameon=False, ncols=len(arms), loc="upper right")
