"""Rollout wall clock through HTTP beside the same in process: what a pod's processes cost.

    make bench-live-http           # or: PYTHONPATH=tests python docs/benchmarks/live_http.py

A pod is the gateway, vLLM's server and its engine, three processes; in process is vLLM stepped by
hand, as in `live`. Both with SRT and without, on the demo's prompts, to the rollouts' own ends. A
round gives all four the same prompts, one after the other in rotating order. Writes
docs/benchmarks/<date>-live-http.md: medians over rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from context import describe, page
from live import (
    GROUP,
    MODEL,
    ROWS,
    WARM_VISITS,
    Arms,
    Problems,
    prompts_of_demo,
    rotated,
    warm_loads,
)
from live_engine import (
    DTYPE,
    KV_CACHE_BYTES,
    MAX_MODEL_LEN,
    MAX_ROWS,
    NUM_DRAFT_TOKENS,
    Decoded,
    Load,
    eos_of,
)

from srt_common.messages.rollouts import GENERATE_PATH
from support.gateway_process import GatewayProcess

IN_PROCESS = ("none", "srt warm")
Taken = dict[tuple[str, str], list[Decoded]]
"""Round after round, by arm and where."""


@dataclass(frozen=True, slots=True)
class Way:
    """How rollouts are asked for."""

    arm: str
    pod: GatewayProcess | None
    """None: in process."""

    @property
    def where(self) -> str:
        return "in process" if self.pod is None else "a pod"

    def decode(self, arms: Arms, load: Load) -> Decoded:
        """Let it finish a load."""
        if self.pod is None:
            return arms.decode({self.arm: load})[self.arm]
        return asyncio.run(_decode(self.pod, load))


async def _decode(pod: GatewayProcess, load: Load) -> Decoded:
    eos = eos_of(MODEL)

    async def roll_out(http: httpx.AsyncClient, at: int) -> int:
        prompt = list(load.prompts[at])
        params = {
            "max_tokens": MAX_MODEL_LEN - len(prompt),
            "temperature": load.temperature,
            "stop_token_ids": [eos],
            "logprobs": 0,
            "detokenize": False,
        }
        body = {"request_id": f"{time.time_ns()}-{at}", "token_ids": prompt}
        answer = await http.post(GENERATE_PATH, json={**body, "sampling_params": params})
        answer.raise_for_status()
        return len(answer.json()["choices"][0]["token_ids"])

    async with pod.client() as http:
        started = time.perf_counter()
        lengths = await asyncio.gather(*(roll_out(http, at) for at in range(len(load.prompts))))
        return Decoded(time.perf_counter() - started, list(lengths))


@contextmanager
def pods() -> Iterator[dict[str, GatewayProcess]]:
    """One that drafts and one that does not."""
    shared = {
        "SRT_ROLLOUT_DTYPE": DTYPE,
        "SRT_ROLLOUT_MAX_NUM_SEQS": str(MAX_ROWS),
        "SRT_ROLLOUT_MAX_MODEL_LEN": str(MAX_MODEL_LEN),
        "SRT_ROLLOUT_MAX_DRAFT_TOKENS": str(NUM_DRAFT_TOKENS),
        "SRT_ROLLOUT_KV_CACHE_MEMORY_BYTES": str(KV_CACHE_BYTES),
    }
    with ExitStack() as stack:
        found = {}
        for arm, has_drafter in (("none", "false"), ("srt warm", "true")):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            variables = {**shared, "SRT_ROLLOUT_DRAFTER_ENABLED": has_drafter}
            found[arm] = stack.enter_context(GatewayProcess.started(folder, MODEL, **variables))
        yield found


def measure(ways: Sequence[Way], arms: Arms, problems: Problems, rounds: int) -> dict[int, Taken]:
    """By rows and way, round after round."""
    for load in warm_loads(arms, problems):
        for way in ways:
            way.decode(arms, load)
    measured: dict[int, Taken] = {}
    for rows in ROWS:
        measured[rows] = {(way.arm, way.where): [] for way in ways}
        for at in range(rounds):
            load = problems.load(arms, rows, at)
            for way in rotated(ways, at):
                taken = way.decode(arms, load)
                measured[rows][way.arm, way.where].append(taken)
                told = f"{rows} rows, {way.arm}, {way.where}: {taken.seconds:.3f} s"
                sys.stderr.write(f"{told}\n")
    return measured


def table(measured: dict[int, Taken]) -> list[str]:
    """Milliseconds a token, and what the pod and SRT make of them."""
    lines = [
        "| rows | way | ms a token, median | over in process, median "
        "| over none, same way, median |",
        "|---|---|---|---|---|",
    ]
    for rows, by_way in measured.items():
        for (arm, where), taken in by_way.items():
            milliseconds = 1e3 * statistics.median(it.seconds_per_token for it in taken)
            pod = _ratio(taken, by_way[arm, "in process"])
            speed_up = 1 / _ratio(taken, by_way["none", where])
            figures = f"{milliseconds:.3f} | {pod:.2f} | {speed_up:.2f}"
            lines.append(f"| {rows} | {arm}, {where} | {figures} |")
    return lines


def _ratio(taken: Sequence[Decoded], over: Sequence[Decoded]) -> float:
    """Median over rounds of the time a token takes over that of another way."""
    pairs = zip(taken, over, strict=True)
    return statistics.median(a.seconds_per_token / b.seconds_per_token for a, b in pairs)


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=12, help="that count, for each number of rows"
    )
    rounds = parser.parse_args().rounds
    with pods() as by_arm:
        arms = Arms(IN_PROCESS)
        ways = [Way(arm, None) for arm in IN_PROCESS]
        ways += [Way(arm, by_arm[arm]) for arm in IN_PROCESS]
        measured = measure(ways, arms, Problems(prompts_of_demo(), "natural"), rounds)
        arms.close()
    lines = ["# Live: rollout wall clock through HTTP", "", describe("make bench-live-http"), ""]
    lines += [
        f"Demo model in {DTYPE}, one thread, log-probabilities on, rollouts to their own ends,",
        f"{rounds} rounds of the same prompts for all ways in rotating order. A pod is the",
        "gateway, vLLM's server and its engine; each row is a request of its own. SRT has seen",
        f"{WARM_VISITS} groups of {GROUP} of each problem before.",
        "",
        *table(measured),
    ]
    page("live-http", ".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
