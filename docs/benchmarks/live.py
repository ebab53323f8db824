"""Rollout wall clock of real vLLM on the demo model: none, suffix, SRT cold, SRT warm, in turns.

    make bench-live                # or: python docs/benchmarks/live.py --pairs 10

Every arm is an engine in a process of its own; one works at a time, in turns of a fifth of a
second, as the speed of a shared machine changes within seconds. A round gives all arms the same
prompts in rotating order. Writes docs/benchmarks/<date>-live.{md,svg}: medians, and the lower 95 %
bound of the mean over pairs (Student's t on logarithms).

Rollouts end in two ways. `recorded`: all arms decode the lengths a stock engine gave, whatever they
sample; what a rollout samples behind its own end of sequence is text of no rollout. `natural`: each
ends where it ends, as in training; arms are compared by seconds a token, as lengths are chance.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
import reasoning_gym
from context import ROOT, describe, page
from live_engine import DTYPE, Decoded, Load, serve
from matplotlib.figure import Figure
from scipy.stats import t as student
from transformers import AutoTokenizer

MODEL = ROOT / "docs" / "examples" / "tiny-math" / "model"
ARMS = ("none", "suffix", "srt cold", "srt warm")
LEARNING_ARMS = ("suffix", "srt warm")
ENDS = ("natural", "recorded")
ROWS = (4, 16, 64)
NUM_PROBLEMS = 24
GROUP = 8
"""Rollouts of a problem that are sampled together."""
TURN_SECONDS = 0.2
WARM_VISITS = 4
"""Groups of every problem that have been seen before the first round that counts."""
ASKED_OVER_NONE = {4: "2.0 | 3.0", 16: "1.5 | 2.0", 64: "0.95 | 1.1"}
ASKED_OVER_SUFFIX = {4: "1.3 | 1.6", 16: "1.3 | 1.6", 64: "- | -"}
"""Of SRT warm: at least, goal."""
Arm = TypeVar("Arm")
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Round:
    """All arms on one load."""

    setting: str
    taken: dict[str, Decoded]

    def ratio(self, arm: str, over: str = "none") -> float:
        """How many times as fast an arm was, by seconds a token."""
        return self.taken[over].seconds_per_token / self.taken[arm].seconds_per_token


class Arms:
    """The engines' processes."""

    def __init__(self, names: Sequence[str]) -> None:
        os.environ.update(ENVIRONMENT)
        context = multiprocessing.get_context("spawn")
        self._pipes: dict[str, Connection] = {}
        self._processes = []
        for name in names:
            pipe, theirs = context.Pipe()
            arguments = (name.partition(" ")[0], MODEL, theirs)
            process = context.Process(target=serve, args=arguments, daemon=True)
            process.start()
            pipe.recv()
            self._pipes[name] = pipe
            self._processes.append(process)

    def decode(self, loads: dict[str, Load]) -> dict[str, Decoded]:
        """Let these arms work in turns, in this order, until all are done."""
        for arm, load in loads.items():
            self._call(arm, "start", load)
        unfinished = list(loads)
        while unfinished:
            unfinished = [arm for arm in unfinished if self._call(arm, "go_on", TURN_SECONDS)]
        return {arm: self._call(arm, "finish", None) for arm in loads}

    def lengths(self, load: Load) -> list[int]:
        """Natural lengths, from the stock engine."""
        lengths: list[int] = self._call("none", "decode_in_order", load)
        return lengths

    def close(self) -> None:
        """End all."""
        for pipe in self._pipes.values():
            pipe.send(None)
        for process in self._processes:
            process.join()

    def _call(self, arm: str, method: str, argument: object) -> Any:
        self._pipes[arm].send((method, argument))
        return self._pipes[arm].recv()


def prompts_of_demo() -> list[list[int]]:
    """Its training problems."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    dataset = reasoning_gym.create_dataset("chain_sum", seed=1, size=NUM_PROBLEMS, max_digits=2)
    return [tokenizer(dataset[i]["question"])["input_ids"] for i in range(NUM_PROBLEMS)]


@dataclass(frozen=True, slots=True)
class Problems:
    """The demo's prompts, in groups of rollouts."""

    prompts: Sequence[list[int]]
    ends: str

    def load(self, arms: Arms, rows: int, at: int) -> Load:
        """Groups of up to `GROUP` rollouts of the next prompts."""
        size, prompts = min(GROUP, rows), self.prompts
        chosen = [prompts[(at * (rows // size) + i) % len(prompts)] for i in range(rows // size)]
        load = Load([prompt for prompt in chosen for _ in range(size)], None)
        return load if self.ends == "natural" else replace(load, lengths=arms.lengths(load))


def random_load(rows: int, temperature: float, seed: int) -> Load:
    """Prompts that nobody has seen and that do not repeat."""
    vocabulary = json.loads((MODEL / "config.json").read_text())["vocab_size"]
    choice = random.Random(seed)
    prompts = [[choice.randrange(8, vocabulary) for _ in range(24)] for _ in range(rows)]
    return Load(prompts, [choice.randint(60, 160) for _ in range(rows)], temperature)


def warm_loads(arms: Arms, problems: Problems) -> Iterator[Load]:
    """A group of every problem, `WARM_VISITS` times."""
    for at in range(WARM_VISITS * NUM_PROBLEMS * GROUP // ROWS[-1]):
        yield problems.load(arms, ROWS[-1], at)


def warm_up(arms: Arms, problems: Problems) -> None:
    """For the arms that keep what they have seen."""
    for load in warm_loads(arms, problems):
        progress(Round("warm-up", arms.decode(dict.fromkeys(LEARNING_ARMS, load))))


def measure_problems(arms: Arms, problems: Problems, rows: int, pairs: int) -> list[Round]:
    """All arms on the demo's prompts."""
    rounds = []
    for at in range(pairs):
        load = problems.load(arms, rows, at)
        loads = {arm: replace(load, has_empty_trees=arm == "srt cold") for arm in ARMS}
        taken = arms.decode({arm: loads[arm] for arm in rotated(ARMS, at)})
        rounds.append(Round(f"{problems.ends} ends, {rows} rows", taken))
        progress(rounds[-1])
    return rounds


def measure_adversarial(arms: Arms, pairs: int) -> list[list[Round]]:
    """Loads that no tree can help with, on the engine whose trees are cold."""
    measured = []
    settings = [(f"random prompts, {rows} rows", rows, 1.0) for rows in ROWS]
    settings += [(f"temperature 2, {rows} rows", rows, 2.0) for rows in ROWS]
    for number, (setting, rows, temperature) in enumerate(settings):
        found = []
        for at in range(2 + pairs):
            load = random_load(rows, temperature, seed=1000 * number + at)
            order = rotated(("none", "srt cold"), at)
            found.append(Round(setting, arms.decode(dict.fromkeys(order, load))))
            progress(found[-1])
        measured.append(found[-pairs:])
    return measured


def rotated(arms: Sequence[Arm], by: int) -> list[Arm]:
    """Everybody is first in turn."""
    by %= len(arms)
    return [*arms[by:], *arms[:by]]


def progress(it: Round) -> None:
    """One line a round."""
    seconds = ", ".join(f"{arm} {taken.seconds:.3f}" for arm, taken in sorted(it.taken.items()))
    sys.stderr.write(f"{it.setting}: {seconds} s\n")


def lower_bound(ratios: Sequence[float]) -> float:
    """One-sided 95 % bound of the geometric mean."""
    logs = np.log(ratios)
    half = student.ppf(0.95, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    return float(np.exp(logs.mean() - half))


def row_of(rounds: Sequence[Round], arm: str) -> str:
    """One line of the table."""
    seconds = statistics.median(it.taken[arm].seconds for it in rounds)
    ratios = [it.ratio(arm) for it in rounds]
    drafted = sum(sum(it.taken[arm].drafted) for it in rounds)
    num_rows = sum(sum(it.taken[arm].rows) for it in rounds)
    milliseconds = 1e3 * statistics.median(
        it.taken[arm].seconds / len(it.taken[arm].rows) for it in rounds
    )
    tokens = statistics.median(it.taken[arm].tokens_per_step for it in rounds)
    return (
        f"| {rounds[0].setting} | {arm} | {seconds:.3f} | {statistics.median(ratios):.2f} "
        f"| {min(ratios):.2f} to {max(ratios):.2f} | {lower_bound(ratios):.2f} "
        f"| {tokens:.2f} | {drafted / num_rows:.1f} | {milliseconds:.2f} |"
    )


HEAD = [
    "| load | arm | seconds, median | over none, median | range | lower 95 % bound "
    "| tokens/step | drafted/row | ms/step |",
    "|---|---|---|---|---|---|---|---|---|",
]


def targets(
    measured: dict[str, dict[int, list[Round]]], adversarial: Sequence[list[Round]]
) -> list[str]:
    """The issue's numbers beside ours."""
    heads = [f"{ends} ends" for ends in measured]
    lines = [f"| what | at least | goal | {' | '.join(heads)} |", "|---" * (3 + len(heads)) + "|"]

    def row(over: str, rows: int, asked: str) -> str:
        medians = (
            statistics.median(it.ratio("srt warm", over) for it in by_rows[rows])
            for by_rows in measured.values()
        )
        figures = " | ".join(f"{it:.2f}" for it in medians)
        return f"| SRT warm over {over}, {rows} rows | {asked} | {figures} |"

    lines += [row("none", rows, asked) for rows, asked in ASKED_OVER_NONE.items()]
    lines += [row("suffix", rows, asked) for rows, asked in ASKED_OVER_SUFFIX.items()]
    lines += ["", "| what, lower bound | at least | goal | measured |", "|---|---|---|---|"]
    for rounds in adversarial:
        bound = lower_bound([it.ratio("srt cold") for it in rounds])
        lines.append(f"| {rounds[0].setting} | 0.95 | 0.98 | {bound:.2f} |")
    return lines


def draw(measured: dict[int, list[Round]], path: Path) -> None:
    """What the governor chose, step by step, in the last round of each load."""
    mpl.rcParams["svg.hashsalt"] = "srt"
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    for panel, (rows, rounds) in zip(
        figure.subplots(1, len(measured)), measured.items(), strict=True
    ):
        taken = rounds[-1].taken["srt warm"]
        steps = range(len(taken.rows))
        panel.step(steps, taken.rows, color="#8a8a8a", label="rows")
        panel.step(steps, taken.drafted, color="#1b7f5c", label="draft tokens verified")
        panel.set_title(f"{rows} rows, SRT warm: what the governor chose", fontsize=10)
        panel.set_xlabel("engine step")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=7, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10, help="rounds that count, a load")
    pairs = parser.parse_args().pairs
    prompts = prompts_of_demo()
    measured = {}
    for ends in ENDS:
        arms, problems = Arms(ARMS), Problems(prompts, ends)
        warm_up(arms, problems)
        measured[ends] = {rows: measure_problems(arms, problems, rows, pairs) for rows in ROWS}
        arms.close()
    arms = Arms(("none", "srt cold"))
    adversarial = measure_adversarial(arms, pairs)
    arms.close()
    lines = ["# Live: rollout wall clock of vLLM in process", "", describe("make bench-live"), ""]
    lines += [
        f"Demo model in {DTYPE}, one thread, log-probabilities on, same prompts for all arms,",
        f"{pairs} rounds a load, in which the arms work in turns of {TURN_SECONDS} s (times are",
        "those of an arm's own turns). `suffix` is vLLM's method with our verification in the",
        "place of its CPU kernels, which are wrong at temperature > 0. Suffix and SRT warm have",
        f"seen {WARM_VISITS} groups of {GROUP} of each problem before. Natural ends: rollouts end",
        "where they end, arms are compared by seconds a token. Recorded ends: all arms decode the",
        "lengths a stock engine gave, also behind a rollout's own end, where no rollout goes on.",
        "",
        *targets(measured, adversarial),
        "",
        *HEAD,
    ]
    for by_rows in measured.values():
        lines += [row_of(rounds, arm) for rounds in by_rows.values() for arm in ARMS]
    lines += [row_of(rounds, arm) for rounds in adversarial for arm in ("none", "srt cold")]
    page("live", ".md").write_text("\n".join(lines) + "\n")
    draw(measured["natural"], page("live", ".svg"))


if __name__ == "__main__":
    main()
