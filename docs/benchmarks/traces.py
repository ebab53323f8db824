"""Recorded rollouts through SRT's trees and through the peer's, side by side. No model, no GPU.

    SRT_TRACES=folder SRT_TESTBED=folder make bench

Needs folders of rollout traces (npz, docs/simulate.md) that are not part of this repository;
without them it says so and writes nothing. Writes docs/benchmarks/<date>-traces.md and .svg. Every
arm takes each batch in turn with the others; times are process CPU time.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from context import describe, page
from plots import draw
from targets import target_table

from srt_common.simulate.arms import Options
from srt_common.simulate.sources import read_trace
from srt_common.simulate.tally import Account, Figures, figures
from srt_common.simulate.trace import Trace
from srt_common.simulate.workers import replay

PEER_ARMS = ("srt", "suffix", "prompt-lookup")
EXACT_SETTINGS = {
    "K 16": Options(drafters=PEER_ARMS),
    "K 32": Options(drafters=("srt", "suffix"), max_draft_tokens=32, min_survival=0.03),
    "K 16, cold": Options(drafters=("srt", "suffix"), visits=(0, 0)),
}
TEXT_SETTINGS = {
    "equal drafts": Options(drafters=PEER_ARMS, has_equal_drafts=True),
    "K 16": Options(drafters=("srt",)),
}
REPLICA_SETTINGS = {
    "1 replica": Options(drafters=("srt", "suffix")),
    "8 replicas": Options(drafters=("srt", "suffix"), num_replicas=8),
    "8 replicas, private": Options(drafters=("srt",), num_replicas=8, is_shared=False),
}
REPLICA_EPOCHS = 16
REPLICA_ROLLOUTS = 3700


@dataclass(frozen=True)
class Measured:
    """One arm in one setting on one source."""

    source: str
    setting: str
    arm: str
    account: Account
    figures: Figures


def measure(trace: Trace, settings: dict[str, Options]) -> Iterator[Measured]:
    """All settings on one source."""
    for setting, options in settings.items():
        sys.stderr.write(f"{trace.name}: {setting}\n")
        accounts = replay(trace, options, lambda _: None)
        for arm, account in accounts.items():
            found = figures(account, trace.num_generated)
            yield Measured(trace.name, setting, arm, account, found)


def sources(folder: Path) -> list[Trace]:
    """All traces of a folder by name."""
    return [read_trace(path) for path in sorted(folder.glob("*.npz"))]


def first_epochs(trace: Trace) -> Trace:
    """What the replica table replays: the first samples of each prompt."""
    num_prompts = len({rollout.prompt_index for rollout in trace.rollouts})
    return trace.first(min(REPLICA_ROLLOUTS, REPLICA_EPOCHS * num_prompts))


def quality_table(measured: Sequence[Measured]) -> list[str]:
    """Tokens per step and what they cost."""
    lines = [
        "| source | setting | drafter | tokens/step | drafted/step | accepted | coverage "
        "| propose us/row p50 / p99 | us/drafted token | insert us/token | bytes/token, counted |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for it in measured:
        held = it.account.held
        counted = f"{held.num_bytes / held.num_tokens:.0f}" if held.num_bytes else "-"
        lines.append(
            f"| {it.source} | {it.setting} | {it.arm} | {it.figures['tokens_per_step']:.3f} "
            f"| {it.figures['drafted_per_step']:.2f} | {it.figures['acceptance_rate']:.3f} "
            f"| {it.account.tally.coverage:.3f} | {it.figures['propose_us_p50']:.1f} / "
            f"{it.figures['propose_us_p99']:.1f} | {it.account.propose_us_per_draft_token:.2f} "
            f"| {it.figures['insert_us_per_token']:.2f} "
            f"| {it.figures['bytes_per_token']:.0f}, {counted} |"
        )
    return lines


def replica_table(measured: Sequence[Measured]) -> list[str]:
    """Tokens per step by replicas, and the part of the single cache's value that is kept."""
    found = {(it.source, it.setting, it.arm): it.figures["tokens_per_step"] for it in measured}
    lines = [
        "| source | suffix, 1 | suffix, 8 private | kept | srt, 1 | srt, 8 private | kept "
        "| srt, 8 sharing, 200 ms | kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for source in dict.fromkeys(it.source for it in measured):
        suffix = [found[source, setting, "suffix"] for setting in ("1 replica", "8 replicas")]
        srt = [found[source, setting, "srt"] for setting in REPLICA_SETTINGS]
        lines.append(
            f"| {source} | {suffix[0]:.3f} | {suffix[1]:.3f} | {suffix[1] / suffix[0]:.1%} "
            f"| {srt[0]:.3f} | {srt[2]:.3f} | {srt[2] / srt[0]:.1%} "
            f"| {srt[1]:.3f} | {srt[1] / srt[0]:.1%} |"
        )
    return lines


def turn_table(measured: Sequence[Measured], traces: Sequence[Trace]) -> list[str]:
    """What it costs to start a turn of a known conversation."""
    lines = ["| source | turns | tokens before a turn, mean | drafter | start of a turn, us |"]
    lines.append("|---|---|---|---|---|")
    for trace in traces:
        turns = [(rollout, turn) for rollout in trace.rollouts for turn in rollout.turns]
        if len(turns) == len(trace.rollouts):
            continue
        before = sum(len(trace.prompts[it.prompt_index]) + turn.start for it, turn in turns)
        lines += [
            f"| {trace.name} | {len(turns)} | {before / len(turns):.0f} | {it.arm} "
            f"| {it.account.open_us:.1f} |"
            for it in measured
            if (it.source, it.setting) == (trace.name, "equal drafts")
        ]
    return lines


def folder_option(parser: argparse.ArgumentParser, name: str, variable: str) -> None:
    """A folder given by option or environment."""
    default = os.environ.get(variable)
    parser.add_argument(
        name, type=Path, default=Path(default) if default else None, help=f"or {variable}"
    )


@dataclass(frozen=True)
class Tables:
    """All that was measured."""

    traces: Sequence[Trace]
    exact: Sequence[Measured]
    text: Sequence[Measured]
    replicas: Sequence[Measured]


def measure_all(testbed: Sequence[Trace], traces: Sequence[Trace]) -> Tables:
    """Every setting on every source it is for."""
    exact = [it for trace in testbed for it in measure(trace, EXACT_SETTINGS)]
    text = [it for trace in traces for it in measure(trace, TEXT_SETTINGS)]
    single_turn = [it for it in traces if all(len(r.turns) == 1 for r in it.rollouts)]
    cuts = [first_epochs(trace) for trace in single_turn]
    replicas = [it for trace in cuts for it in measure(trace, REPLICA_SETTINGS)]
    return Tables(traces, exact, text, replicas)


def page_lines(tables: Tables, plot: str) -> list[str]:
    """The page."""
    return [
        "# Recorded rollouts: SRT beside suffix decoding and prompt lookup",
        "",
        describe("make bench"),
        "Peer: arctic-inference 0.3.0 with vLLM's defaults, called as vLLM calls it. Arms of a "
        "setting take each batch of 32 rollouts in turn; times are process CPU time, of taking in "
        "and of proposing apart, at the speed of a machine whose cores were shared. In exact "
        "replays proposing includes coupling the draft with the text.",
        "",
        f"![tokens per step, sharing, cost]({plot})",
        "",
        "## Against the targets",
        "",
        *target_table([*tables.exact, *tables.text], tables.replicas),
        "",
        "## Testbed: exact-p replay, sampled drafts",
        "",
        *quality_table(tables.exact),
        "",
        "## Text traces: point-mass drafts",
        "",
        "`equal drafts`: srt's survival limit is steered so that it drafts as many tokens a step "
        "as suffix.",
        "",
        *quality_table(tables.text),
        "",
        "## Replicas",
        "",
        f"The first {REPLICA_EPOCHS} samples of each prompt, at most {REPLICA_ROLLOUTS} rollouts; "
        "32 rollouts in flight over all replicas, random routing.",
        "",
        *replica_table(tables.replicas),
        "",
        "## Turns",
        "",
        *turn_table(tables.text, tables.traces),
        "",
    ]


def main() -> int:
    """Measure and write the pages."""
    parser = argparse.ArgumentParser(description="Recorded rollouts, ours beside the peer's.")
    folder_option(parser, "--traces", "SRT_TRACES")
    folder_option(parser, "--testbed", "SRT_TESTBED")
    parser.add_argument("--out", type=Path, default=page("traces", ".md"))
    options = parser.parse_args()
    if options.traces is None or options.testbed is None:
        sys.stdout.write("skipped traces: give --traces and --testbed, folders of npz files\n")
        return 0
    tables = measure_all(sources(options.testbed), sources(options.traces))
    plot = options.out.with_suffix(".svg")
    draw(tables.exact, tables.text, tables.replicas, plot)
    lines = page_lines(tables, plot.name)
    options.out.write_text("\n".join(lines))
    sys.stdout.write("\n".join(lines) + f"\nwrote {options.out} and {plot}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
