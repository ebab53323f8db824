"""Does it learn, and do SRT off and on learn alike? Runs the demo for long, draws both curves.

    make bench-learning            # or: python docs/benchmarks/learning.py --steps 30

Writes docs/benchmarks/<date>-learning.{md,svg}: accuracy on held-out problems over steps with 95 %
Wilson intervals, rollout seconds and tokens per step; hardware, commit and command.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from context import ROOT, page
from context import describe as describe_machine

JOB = ROOT / "docs" / "examples" / "tiny-math" / "job.yaml"
ARMS = ("off", "on")
COLOURS = {"off": "#777777", "on": "#0b6fbd"}


@dataclass(frozen=True)
class Arm:
    """What one arm wrote to its metrics.jsonl."""

    evaluations: list[dict[str, Any]]
    steps: list[dict[str, Any]]


def wilson(successes: float, samples: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion."""
    centre = (successes + z * z / 2) / (samples + z * z)
    half = z * math.sqrt(successes * (1 - successes / samples) + z * z / 4) / (samples + z * z)
    return centre - half, centre + half


def read_arm(folder: Path) -> Arm:
    """Read an arm's lines by kind."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Arm(
        [line for line in lines if line["kind"] == "eval"],
        [line for line in lines if line["kind"] == "step"],
    )


def draw(arms: dict[str, Arm], path: Path) -> None:
    """Accuracy, rollout seconds and tokens per step over steps."""
    mpl.rcParams["svg.hashsalt"] = "srt"
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6))
    for name, arm in arms.items():
        points = [evaluation_point(line) for line in arm.evaluations]
        steps, means, lows, highs = zip(*points, strict=True)
        left.plot(steps, means, "o-", color=COLOURS[name], label=f"SRT {name}")
        left.fill_between(steps, lows, highs, color=COLOURS[name], alpha=0.2)
        at = [line["step"] + 1 for line in arm.steps]
        middle.plot(at, [line["rollout_seconds"] for line in arm.steps], color=COLOURS[name])
        right.plot(at, [line["tokens_per_step"] for line in arm.steps], color=COLOURS[name])
    left.set(xlabel="optimizer steps", ylabel="accuracy, held-out problems", title="Learning")
    left.legend()
    middle.set(xlabel="step", ylabel="seconds", title="Rollouts of a step", ylim=(0, None))
    right.set(xlabel="step", ylabel="tokens per request-step", title="Drafting", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def evaluation_point(line: dict[str, Any]) -> tuple[int, float, float, float]:
    """Step, accuracy and its interval."""
    samples = line["eval_samples"]
    low, high = wilson(line["eval_accuracy"] * samples, samples)
    return line["step"], line["eval_accuracy"], low, high


def table(arms: dict[str, Arm]) -> list[str]:
    """Accuracy of both arms at each evaluation, side by side."""
    rows = ["| step | off | on | difference, 95 % |", "|---|---|---|---|"]
    for off, on in zip(arms["off"].evaluations, arms["on"].evaluations, strict=True):
        difference = on["eval_accuracy"] - off["eval_accuracy"]
        variance = sum(
            line["eval_accuracy"] * (1 - line["eval_accuracy"]) / line["eval_samples"]
            for line in (off, on)
        )
        half = 1.96 * math.sqrt(variance)
        rows.append(
            f"| {off['step']} | {off['eval_accuracy']:.1%} | {on['eval_accuracy']:.1%} "
            f"| {difference:+.1%} +- {half:.1%} |"
        )
    return rows


def describe(arms: dict[str, Arm], summary: dict[str, Any], command: str) -> str:
    """The dated page."""
    off, on = (summary["arms"][name] for name in ARMS)
    ratio = off["rollout_seconds"] / on["rollout_seconds"]
    return "\n".join(
        [
            "# Learning with SRT off and on",
            "",
            f"{describe_machine(command)} Samples per evaluation: {off['eval_samples']}.",
            "",
            *table(arms),
            "",
            "Intervals are of the evaluations alone; trainings differ by more, as two seeds do.",
            "",
            f"Rollout seconds, all steps: off {off['rollout_seconds']:.1f}, "
            f"on {on['rollout_seconds']:.1f} ({ratio:.2f}x). Tokens per step: "
            f"{on['tokens_per_step']:.2f}. Step seconds, median: off {off['step_seconds']:.1f}, "
            f"on {on['step_seconds']:.1f} (run-ahead shares the cores).",
            "",
        ]
    )


def main() -> int:
    """Run, draw, write."""
    parser = argparse.ArgumentParser(description="Learning curves of the demo, SRT off and on.")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps (default: 30)")
    parser.add_argument("--every", type=int, default=5, help="evaluate every so many (default: 5)")
    parser.add_argument("--run-dir", type=Path, default=ROOT / "runs" / "learning")
    options = parser.parse_args()
    command = [
        str(Path(sys.executable).with_name("srt")),
        "run",
        str(JOB.relative_to(ROOT)),
        "--compare",
        "--fresh",
        "--run-dir",
        str(options.run_dir),
        "--set",
        f"spec.algorithm.steps={options.steps}",
        "--set",
        f"spec.evaluation.everySteps={options.every}",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    arms = {name: read_arm(options.run_dir / name) for name in ARMS}
    summary = json.loads((options.run_dir / "summary.json").read_text())
    draw(arms, page("learning", ".svg"))
    target = page("learning", ".md")
    target.write_text(describe(arms, summary, f"make bench-learning ({options.steps} steps)"))
    sys.stdout.write(f"wrote {target} and its plot\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
