"""What the trees cost: inserting, drafting, memory, snapshots. Needs neither model nor GPU.

    make bench            # or: python docs/benchmarks/trees.py --rows 1 16 64 256

Replays written solutions of the demo's problems, epoch by epoch, as the engine would decode them: a
draft is accepted as far as it equals what the solution says next. Writes
docs/benchmarks/<date>-trees.md; process CPU time, medians over steps.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import reasoning_gym
from context import ROOT, describe, page
from numpy.typing import NDArray
from structure import SIZES, structure_table
from tokenizers import Tokenizer

from srt_common.keys import PromptKey
from srt_common.simulate.row import common_prefix
from srt_common.simulate.srt import prompt_key
from srt_common.tree import LANE_POLICY, MODE_SAMPLED, PromptForest, Update, pack_tokens
from srt_rollout.drafter import Drafter, RowRequest, StepBatch

TINY_MATH = ROOT / "docs" / "examples" / "tiny-math"
sys.path.insert(0, str(TINY_MATH))

from solutions import write_solution  # noqa: E402 - found through the line above

IntArray = NDArray[np.int32]


@dataclass(frozen=True)
class Rollout:
    """One recorded response."""

    key: PromptKey
    prompt: IntArray
    response: IntArray
    epoch: int


@dataclass
class Decoding:
    """A rollout on its way through the drafter."""

    rollout: Rollout
    at: int = 0
    draft: list[int] = field(default_factory=list)

    def verify(self) -> tuple[IntArray, int]:
        """The tokens of one pass, and how many drafted positions were verified for them."""
        rest = self.rollout.response[self.at :].tolist()
        accepted = common_prefix(self.draft, rest[:-1])
        verified = len(self.draft)
        self.at += accepted + 1
        return np.asarray(rest[: accepted + 1], np.int32), verified

    @property
    def is_done(self) -> bool:
        """Every token of the response has been given."""
        return self.at >= len(self.rollout.response)


@dataclass
class Replay:
    """What one replay gave."""

    step_seconds: list[float] = field(default_factory=list)
    tokens_per_step: float = 0.0
    drafted_tokens: int = 0

    @property
    def microseconds_per_drafted_token(self) -> float:
        """All time of the drafter's steps over the tokens it drafted."""
        return sum(self.step_seconds) / max(1, self.drafted_tokens) * 1e6


def rollouts(num_prompts: int, num_epochs: int, num_samples: int) -> list[Rollout]:
    """Recorded responses, epoch by epoch; all samples of a prompt in an epoch side by side."""
    tokenizer = Tokenizer.from_file(str(TINY_MATH / "model" / "tokenizer.json"))
    problems = reasoning_gym.create_dataset("chain_sum", seed=1, size=num_prompts, max_digits=2)
    rng = random.Random(0)
    made = []
    for epoch in range(num_epochs):
        for number, problem in enumerate(problems):
            key = prompt_key(number)
            prompt = np.asarray(tokenizer.encode(problem["question"]).ids, np.int32)
            for _ in range(num_samples):
                text = write_solution(problem["question"], rng)
                response = np.asarray([*tokenizer.encode(text).ids, 0], np.int32)
                made.append(Rollout(key, prompt, response, epoch))
    return made


def replay(recorded: Sequence[Rollout], num_rows: int) -> Replay:
    """Decode everything with ``num_rows`` rows at a time."""
    forest = PromptForest(engine_id=1, max_bytes=1 << 30, seed=0)
    drafter = Drafter(forest, max_draft_tokens=16, min_survival=0.1)
    waiting, running, result = deque(enumerate(recorded)), dict[str, Decoding](), Replay()
    num_passes = 0
    while waiting or running:
        while waiting and len(running) < num_rows:
            number, rollout = waiting.popleft()
            running[str(number)] = Decoding(rollout)
            drafter.open(request_of(str(number), rollout))
        passes = [decoding.verify() for decoding in running.values()]
        num_passes += len(passes)
        batch = StepBatch(
            request_ids=list(running),
            new_tokens=[tokens for tokens, _ in passes],
            num_verified=np.asarray([verified for _, verified in passes], np.int32),
            overlap=np.zeros(0, np.float32),
        )
        started = time.process_time()
        drafts = drafter.step(batch, drafter.plan(len(running)))
        result.step_seconds.append(time.process_time() - started)
        bounds = drafts.offsets.tolist()
        for index, (request_id, decoding) in enumerate(list(running.items())):
            decoding.draft = drafts.token_ids[bounds[index] : bounds[index + 1]].tolist()
            result.drafted_tokens += len(decoding.draft)
            if decoding.is_done:
                drafter.close(request_id)
                del running[request_id]
    result.tokens_per_step = sum(len(rollout.response) for rollout in recorded) / num_passes
    return result


def request_of(request_id: str, rollout: Rollout) -> RowRequest:
    """A rollout as the engine would announce it."""
    return RowRequest(
        request_id=request_id,
        prompt_key=rollout.key,
        prompt_token_ids=rollout.prompt.tolist(),
        context_token_ids=(),
        policy_version=rollout.epoch,
        lane=LANE_POLICY,
        mode=MODE_SAMPLED,
        max_new_tokens=len(rollout.response),
        stop_token_ids=(),
    )


def number_of(rollout: Rollout) -> int:
    """Of its prompt."""
    return int.from_bytes(rollout.key, "little")


def updates(recorded: Sequence[Rollout]) -> Iterator[Update]:
    """The same rollouts as the log would bring them."""
    for number, rollout in enumerate(recorded):
        tokens = pack_tokens(rollout.response)
        yield (rollout.key, number, 0, rollout.epoch, LANE_POLICY, 2, 0, tokens, b"")


def storage(recorded: Sequence[Rollout]) -> list[str]:
    """Rows on inserting, memory and snapshots."""
    num_tokens = sum(len(rollout.response) for rollout in recorded)
    forest = PromptForest(engine_id=1, max_bytes=1 << 30, seed=0)
    batch = list(updates(recorded))
    started = time.process_time()
    forest.apply(batch, max_tokens=num_tokens)
    inserting = time.process_time() - started
    started = time.process_time()
    images = [forest.snapshot(key) or b"" for key in forest.prompt_keys()]
    writing = time.process_time() - started
    copy = PromptForest(engine_id=3, max_bytes=1 << 30, seed=0)
    started = time.process_time()
    for image in images:
        copy.load_snapshot(image)
    reading = time.process_time() - started
    return [
        "| what | per token |",
        "|---|---|",
        f"| insert (own tree and back-off) | {inserting / num_tokens * 1e6:.2f} us |",
        f"| memory | {forest.stats().memory_bytes / num_tokens:.0f} bytes |",
        f"| snapshot, size | {sum(map(len, images)) / num_tokens:.2f} bytes |",
        f"| snapshot, writing | {writing / num_tokens * 1e6:.3f} us |",
        f"| snapshot, loading | {reading / num_tokens * 1e6:.2f} us |",
    ]


def drafting(recorded: Sequence[Rollout], rows: Sequence[int]) -> list[str]:
    """Rows on drafting, by rows in the batch."""
    lines = [
        "| rows | step, median | step, p99 | per drafted token | tokens/step |",
        "|---|---|---|---|---|",
    ]
    for num_rows in rows:
        result = replay(recorded, num_rows)
        p99 = statistics.quantiles(result.step_seconds, n=100)[98]
        lines.append(
            f"| {num_rows} | {statistics.median(result.step_seconds) * 1e6:.0f} us "
            f"| {p99 * 1e6:.0f} us | {result.microseconds_per_drafted_token:.2f} us "
            f"| {result.tokens_per_step:.2f} |"
        )
    return lines


def main() -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description="What the trees cost.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64, 256], metavar="N")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--samples", type=int, default=8, help="of a prompt in an epoch")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="TOKENS")
    parser.add_argument("--out", type=Path, default=page("trees", ".md"))
    options = parser.parse_args()
    recorded = rollouts(options.prompts, options.epochs, options.samples)
    num_tokens = sum(len(rollout.response) for rollout in recorded)
    lines = [
        "# What the trees cost",
        "",
        describe("make bench"),
        f"{len(recorded)} written solutions of {options.prompts} problems, {num_tokens} tokens, "
        f"{options.epochs} epochs; hard targets; drafts of at most 16 tokens; one thread. A step "
        "is everything the drafter does for a batch, Python included.",
        "",
        *storage(recorded),
        "",
        *drafting(recorded, options.rows),
        "",
        "By size, beside arctic-inference 0.3.0: the same solutions and changed copies of them "
        "(3 % of the tokens replaced), 32 sequences growing by two tokens a step; CPU time.",
        "",
        *structure_table([(number_of(it), it.response) for it in recorded], options.sizes),
        "",
    ]
    options.out.write_text("\n".join(lines))
    sys.stdout.write("\n".join(lines) + f"\nwrote {options.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
