"""What SRT adds to an engine step on the host, by rows of the batch and threads that draft.

    make bench-rows                # or: python docs/benchmarks/rows.py --rows 64 512 --threads 1 2

Prints a table in Markdown. vLLM's part is played: what its rows sample is made up here, the
drafter and its trees are real. Arms take each step in turn with the others, on the same text.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace as Played
from typing import Any, Final

import numpy as np
import torch
from context import describe

from srt_rollout.vllm_plugin.proposer import TreeDrafter
from srt_rollout.vllm_plugin.sampler import Verification

VOCABULARY: Final = 300
MAX_TOKENS: Final = 1024
NUM_DRAFT_TOKENS: Final = 16
GROUP: Final = 8
"""Rows of one prompt."""
NUM_STEPS: Final = 150
NUM_COLD_STEPS: Final = 50
"""Steps before those that are counted: the trees start empty."""
CHANCES: Final = np.array([0.5, 0.15, 0.1, 0.1, 0.08, 0.07])


class PlayedEngine:
    """Rows that decode made-up text, with a drafter of their own."""

    def __init__(self, num_rows: int, num_threads: int) -> None:
        os.environ["SRT_DRAFTER_NUM_THREADS"] = str(num_threads)
        os.environ["SRT_DRAFTER_MIN_SURVIVAL"] = "0.15"  # each step is drafted, as if that paid
        self.milliseconds: dict[str, list[float]] = defaultdict(list)
        self._choice = np.random.default_rng(1)
        self._names = [f"r{row}" for row in range(num_rows)]
        self._tokens = np.zeros((num_rows, MAX_TOKENS), np.int32)
        self._ends = np.full(num_rows, 4, np.int32)
        self._tokens[:, :4] = [[1, 2, 3, 4 + row // GROUP] for row in range(num_rows)]
        self._drafts: list[list[int]] = [[] for _ in range(num_rows)]
        self._sampling = Played(
            all_greedy=False,
            all_random=True,
            temperature=torch.ones(num_rows),
            top_k=None,
            top_p=None,
        )
        self._drafter = self._bound()
        self._watch(self._drafter.forest, "step", "trees")
        self._drafter.on_schedule(self._schedule(is_first=True))

    def step(self) -> None:
        """Sample for every row, and have the next drafts proposed."""
        drafter, lengths = self._drafter, [len(draft) for draft in self._drafts]
        drafter.on_schedule(self._schedule(is_first=False))
        self._watch(drafter._record, "soft_rows", "soft targets")
        self._timed("distributions", drafter.draft_distributions, lengths)
        probs = np.full((sum(lengths), VOCABULARY), 1e-4, np.float32)
        overlap = np.full(sum(lengths), np.nan, np.float32)
        bonus = np.full((len(lengths), VOCABULARY), -9, np.float32)
        starts = np.cumsum([0, *lengths])
        sampled = []
        for row, draft in enumerate(self._drafts):
            emitted = self._sample(row, draft)
            for at in range(min(len(emitted), len(draft))):
                last = [int(self._tokens[row, self._ends[row] - 1]), *emitted][at]
                probs[starts[row] + at, _followers(last)] = CHANCES
                overlap[starts[row] + at] = 0.7
            bonus[row, _followers(emitted[-1])] = np.log(CHANCES)
            self._tokens[row, self._ends[row] :][: len(emitted)] = emitted
            self._ends[row] += len(emitted)
            sampled.append(emitted)
        drafter.on_bonus(torch.from_numpy(bonus), self._sampling)
        if sum(lengths):
            none = torch.zeros(0)
            drafter.on_verified(
                Verification(none, torch.from_numpy(overlap), torch.from_numpy(probs))
            )
        self._drafts = self._timed("propose", drafter.propose, sampled, self._ends, self._tokens)
        self.milliseconds["drafted tokens"].append(sum(lengths) / len(lengths))

    def _sample(self, row: int, draft: Sequence[int]) -> list[int]:
        """What the row emits: its draft as far as the text agrees, and one token more."""
        last, emitted = int(self._tokens[row, self._ends[row] - 1]), []
        for drafted in [*draft, None]:
            last = int(self._choice.choice(_followers(last), p=CHANCES))
            emitted.append(last)
            if last != drafted:
                break
        return emitted

    def _timed(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = call(*arguments)
        self.milliseconds[name].append((time.perf_counter() - start) * 1e3)
        return result

    def _schedule(self, *, is_first: bool) -> Any:
        params = Played(
            extra_args={},
            stop_token_ids=[],
            eos_token_id=None,
            structured_outputs=None,
            temperature=1.0,
            max_tokens=MAX_TOKENS - 32,
        )
        new = [
            Played(req_id=name, prompt_token_ids=tokens[:4].tolist(), sampling_params=params)
            for name, tokens in zip(self._names, self._tokens, strict=True)
        ]
        drafts = dict(zip(self._names, self._drafts, strict=True))
        return Played(
            scheduled_new_reqs=new if is_first else [],
            scheduled_spec_decode_tokens={name: draft for name, draft in drafts.items() if draft},
            finished_req_ids=set(),
        )

    def _bound(self) -> TreeDrafter:
        """A drafter bound to this engine and not to a real one."""
        config = Played(
            model_config=Played(tokenizer="none"),
            speculative_config=Played(num_speculative_tokens=NUM_DRAFT_TOKENS),
            parallel_config=Played(tensor_parallel_size=1),
        )
        drafter = TreeDrafter(config)
        rows = {name: row for row, name in enumerate(self._names)}
        batch = Played(
            req_ids=self._names,
            req_id_to_index=rows,
            token_ids_cpu=self._tokens,
            num_tokens_no_spec=self._ends,
        )
        drafter._runner = Played(input_batch=batch, device=torch.device("cpu"))
        drafter._is_lead = drafter._is_processed = True
        drafter._telemetry = Played(opened=lambda *_: None)  # type: ignore[assignment]
        drafter._timer = Played(  # type: ignore[assignment]
            on_schedule=lambda *_, **__: None, on_sampled=lambda **_: None
        )
        return drafter

    def _watch(self, owner: object, method: str, name: str) -> None:
        """Time a part of a proposal apart."""
        stock = getattr(owner, method)
        timed = partial(self._timed, name)
        setattr(owner, method, lambda *given, **named: timed(partial(stock, *given, **named)))


def _followers(token: int) -> list[int]:
    return [(token * 31 + 7 + rank * 11) % VOCABULARY for rank in range(len(CHANCES))]


def row_of(num_rows: int, num_threads: int, engine: PlayedEngine) -> str:
    """One line of the table: medians of the warm steps."""
    found = {
        name: statistics.median(values[NUM_COLD_STEPS:])
        for name, values in engine.milliseconds.items()
    }
    cells = (
        f"{found['drafted tokens']:.1f}",
        *(f"{found[name]:.2f}" for name in ("trees", "soft targets", "propose", "distributions")),
        f"{(found['propose'] + found['distributions']) / num_rows * 1e3:.1f}",
    )
    return f"| {num_rows} | {num_threads} | {' | '.join(cells)} |"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What SRT adds to a step on the host, by rows.")
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64, 128, 256, 512])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(describe("make bench-rows") + "\n\n")
    sys.stdout.write(
        "| rows | threads | drafted a row | trees, ms | soft targets, ms | propose, all, ms "
        "| distributions, ms | us a row |\n|---|---|---|---|---|---|---|---|\n"
    )
    for num_rows in options.rows:
        engines = {number: PlayedEngine(num_rows, number) for number in options.threads}
        for _ in range(NUM_STEPS):
            for engine in engines.values():
                engine.step()
        for number, engine in engines.items():
            sys.stdout.write(row_of(num_rows, number, engine) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
