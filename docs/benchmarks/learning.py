"""Does it learn, and do SRT off and on learn alike? Trains pairs of runs, a pair a seed.

    make bench-learning            # or: python docs/benchmarks/learning.py --steps 30 --seeds 4

Writes docs/benchmarks/<date>-learning.{md,svg}: accuracy on held-out problems over steps, of every
run and as mean difference of the pairs; rollout seconds and tokens per step; hardware, commit and
command. The interval of one evaluation says nothing of how far two trainings end apart; that of the
pairs' mean (Student's t) does.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from context import ROOT, page
from context import describe as describe_machine
from scipy.stats import t as student

JOB = ROOT / "docs" / "examples" / "tiny-math" / "job.yaml"
ARMS = ("off", "on")
COLOURS = {"off": "#777777", "on": "#0b6fbd"}


@dataclass(frozen=True)
class Arm:
    """What one arm wrote to its metrics.jsonl."""

    evaluations: list[dict[str, Any]]
    steps: list[dict[str, Any]]


def read_arm(folder: Path) -> Arm:
    """Read an arm's lines by kind."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Arm(
        [line for line in lines if line["kind"] == "eval"],
        [line for line in lines if line["kind"] == "step"],
    )


Pair = dict[str, Arm]
"""One seed's runs by arm."""


def draw(pairs: list[Pair], path: Path) -> None:
    """Accuracy, rollout seconds and tokens per step over steps; a line a run."""
    mpl.rcParams["svg.hashsalt"] = "srt"
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6))
    for at, pair in enumerate(pairs):
        for name, arm in pair.items():
            style = {"color": COLOURS[name], "alpha": 0.8, "linewidth": 1.0}
            label = None if at else f"SRT {name}"
            steps = [line["step"] for line in arm.evaluations]
            accuracies = [line["eval_accuracy"] for line in arm.evaluations]
            left.plot(steps, accuracies, "o-", label=label, **style)
            steps = [line["step"] + 1 for line in arm.steps]
            middle.plot(steps, [line["rollout_seconds"] for line in arm.steps], **style)
            right.plot(steps, [line["tokens_per_step"] for line in arm.steps], **style)
    left.set(xlabel="optimizer steps", ylabel="accuracy, held-out problems", title="Learning")
    left.legend()
    middle.set(xlabel="step", ylabel="seconds", title="Rollouts of a step", ylim=(0, None))
    right.set(xlabel="step", ylabel="tokens per request-step", title="Drafting", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def accuracies(pairs: list[Pair], name: str, at: int) -> list[float]:
    """Of one arm in one evaluation, a seed each."""
    return [pair[name].evaluations[at]["eval_accuracy"] for pair in pairs]


def mean_interval(values: list[float]) -> str:
    """Mean with its 95 % interval over seeds, as text; without one for a single seed."""
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:+.1%}"
    factor = student.ppf(0.975, len(values) - 1)
    half = factor * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.1%} +- {half:.1%}"


def table(pairs: list[Pair]) -> list[str]:
    """Accuracy of all runs at each evaluation, and the mean difference of the pairs."""
    rows = ["| step | off | on | on minus off, mean of the pairs, 95 % |", "|---|---|---|---|"]
    for at, line in enumerate(pairs[0]["off"].evaluations):
        off, on = (accuracies(pairs, name, at) for name in ARMS)
        differences = [second - first for first, second in zip(off, on, strict=True)]
        shown = [", ".join(f"{value:.1%}" for value in values) for values in (off, on)]
        rows.append(f"| {line['step']} | {' | '.join(shown)} | {mean_interval(differences)} |")
    return rows


def spreads(pairs: list[Pair]) -> str:
    """How far runs of one arm end apart."""
    found = [
        f"{name} {statistics.stdev(accuracies(pairs, name, -1)):.1%}"
        for name in ARMS
        if len(pairs) > 1
    ]
    return f"Standard deviation over seeds at the end: {', '.join(found)}." if found else ""


def describe(pairs: list[Pair], command: str) -> str:
    """The dated page."""
    samples = pairs[0]["off"].evaluations[0]["eval_samples"]
    seconds = {
        name: [sum(line["rollout_seconds"] for line in pair[name].steps) for pair in pairs]
        for name in ARMS
    }
    speedups = [off / on for off, on in zip(seconds["off"], seconds["on"], strict=True)]
    off_by = statistics.mean(
        line["sampler_log_prob_difference_mean"] for pair in pairs for line in pair["on"].steps
    )
    return "\n".join(
        [
            "# Learning with SRT off and on",
            "",
            f"{describe_machine(command)} {len(pairs)} seeds, {samples} samples an evaluation: "
            f"95 % of evaluations of one policy lie within {1.96 * math.sqrt(0.25 / samples):.1%}.",
            "",
            *table(pairs),
            "",
            spreads(pairs),
            "",
            "Rollouts ran "
            + ", ".join(f"{speedup:.2f}x" for speedup in speedups)
            + " as fast with SRT. Log-probabilities of sampled tokens, engine with SRT against the "
            f"trainer's own: {off_by:.1e} apart on average.",
            "",
        ]
    )


def run_pair(options: argparse.Namespace, seed: int) -> Pair:
    """Both arms of one seed."""
    folder = options.run_dir / f"seed-{seed}"
    settings = {
        "spec.algorithm.steps": options.steps,
        "spec.algorithm.seed": seed,
        "spec.evaluation.everySteps": options.every,
    }
    command = [
        str(Path(sys.executable).with_name("srt")),
        "run",
        str(JOB.relative_to(ROOT)),
        "--compare",
        "--fresh",
        "--run-dir",
        str(folder),
        *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    return {name: read_arm(folder / name) for name in ARMS}


def main() -> int:
    """Run, draw, write."""
    parser = argparse.ArgumentParser(description="Learning curves of the demo, SRT off and on.")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps (default: 30)")
    parser.add_argument(
        "--every", type=int, default=10, help="evaluate every so many (default: 10)"
    )
    parser.add_argument("--seeds", type=int, default=4, help="pairs of runs (default: 4)")
    parser.add_argument("--run-dir", type=Path, default=ROOT / "runs" / "learning")
    options = parser.parse_args()
    pairs = [run_pair(options, seed) for seed in range(options.seeds)]
    draw(pairs, page("learning", ".svg"))
    target = page("learning", ".md")
    command = f"make bench-learning ({options.steps} steps, {options.seeds} seeds)"
    target.write_text(describe(pairs, command))
    sys.stdout.write(f"wrote {target} and its plot\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
