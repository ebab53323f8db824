"""``report.html``: one self-contained page about a run or a comparison.

* Figures are inline SVG; nothing is fetched from anywhere.
* Works on a run that is going on, that failed, and on one without evaluations.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from srt_operator.layout import RunLayout
from srt_operator.report import figures
from srt_operator.report.figures import ArmLines
from srt_operator.run_lines import read_lines
from srt_operator.summary import Summary
from srt_operator.tables import RUN_AHEAD_ROWS, arm_rows, conclusion

_FILES: Final = ("job.yaml", "summary.json", "metrics.jsonl", "bubbles.jsonl", "engines.jsonl")
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse}td,th{padding:.15rem .9rem;text-align:right}
td:first-child,th:first-child{text-align:left}tr{border-bottom:1px solid #e4e4e4}
svg{max-width:100%;height:auto}.note{color:#666}
"""


def page(layout: RunLayout, arms: Mapping[str, RunLayout], summary: Summary) -> str:
    """The page as text.

    Args:
        layout: where the page will lie; links are relative to it.
        arms: folders of the arms, ``off`` or ``on``.
        summary: content of ``summary.json``.
    """
    lines = {
        name: ArmLines(read_lines(arm.metrics), read_lines(arm.bubbles))
        for name, arm in arms.items()
    }
    sections = [
        _table(arm_rows(summary)),
        f"<p>{html.escape(conclusion(summary))}</p>",
        _section("Learning", figures.learning_curve(lines), "Bars are 95 % intervals."),
        _section("Where the time goes", figures.phase_times(lines), ""),
        _section("Drafting", figures.drafting(lines), "One panel a number, one point a step."),
    ]
    if "on" in summary["arms"]:
        sections += _srt_sections(summary["arms"]["on"], lines["on"])
    sections.append(_links(layout, arms))
    title = html.escape(f"SRT: {summary['job']}")
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{''.join(sections)}</body></html>\n"
    )


def _srt_sections(arm: Summary, lines: ArmLines) -> list[str]:
    note = "From the engines' own counters, evaluations included."
    run_ahead = arm["runahead"]
    rows = [["", "on"]] + [
        [label, shown(run_ahead[name])] for name, (label, shown) in RUN_AHEAD_ROWS.items()
    ]
    return [
        _section("What was accepted", figures.accepted_sources(arm), note),
        _section("Bubbles", figures.bubble_strip(lines), "The darker, the fuller."),
        "<h2>Run-ahead</h2>",
        _table(rows),
        _cost(run_ahead),
    ]


def _cost(run_ahead: Summary) -> str:
    """What it takes from a trainer on the same cores."""
    names = {"with": "run-ahead", "without": "idle engines"}
    rows = [
        [
            names[name],
            str(run_ahead[f"steps_{name}"]),
            _seconds(run_ahead[f"train_seconds_{name}"]),
            _seconds(run_ahead[f"step_seconds_{name}"]),
        ]
        for name in names
    ]
    return _table([["steps whose training ran beside", "steps", "train s", "step s"], *rows])


def _section(title: str, svg: str | None, note: str) -> str:
    if svg is None:
        return ""
    return f'<h2>{html.escape(title)}</h2>{svg}<p class="note">{html.escape(note)}</p>'


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in body
    )
    return f"<table><tr>{cells}</tr>{lines}</table>"


def _links(layout: RunLayout, arms: Mapping[str, RunLayout]) -> str:
    roots = {layout.root, *(arm.root for arm in arms.values())}
    found: list[Path] = []
    for root in sorted(roots):
        found += [root / name for name in _FILES] + sorted(root.glob("logs/*.log"))
    items = "".join(_link(path.relative_to(layout.root)) for path in found if path.exists())
    return f"<h2>Files</h2><ul>{items}</ul>"


def _link(path: Path) -> str:
    text = html.escape(path.as_posix())
    return f'<li><a href="{text}">{text}</a></li>'


def _seconds(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}"
