"""What holding tokens costs at 10 thousand, 1 million and 10 million of them: SRT's trees and the
peer's (arctic-inference), each in a process of its own.

Text: written solutions, then copies of them with 3 % of the tokens replaced, each under a prompt of
its own. 32 sequences grow side by side, two tokens a step. Inserting is timed over the last tenth.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from arctic_inference.suffix_decoding import SuffixDecodingCache
from numpy.typing import NDArray

from srt_common.simulate.srt import prompt_key
from srt_common.simulate.suffix import MAX_TREE_DEPTH
from srt_common.simulate.tally import cpu_ns, resident_bytes
from srt_common.tree import LANE_POLICY, MODE_POINT_MASS, PromptForest

IntArray = NDArray[np.int32]
SIZES = (10_000, 1_000_000, 10_000_000)
WANTED_INSERT_US = {10_000: "0.8 / 0.3", 1_000_000: "1.5 / 0.6", 10_000_000: "2.5 / 1.0"}
WANTED_DROP_MS = {10_000_000: "50 / 10"}
"""At least / goal."""
NUM_ROWS = 32
CHUNK = 2
REPLACED = 0.03

_NO_IDS = np.zeros(0, np.int32)
_NO_PROBS = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Cost:
    """Of one arm at one size."""

    insert_us_per_token: float
    slowest_insert_ms: float
    bytes_per_token: float
    drop_ms: float


class Structure(Protocol):
    """Something that holds sequences."""

    def open(self, sequence: int, prompt_number: int) -> None:
        """A sequence begins."""

    def extend(self, chunks: Sequence[tuple[int, IntArray]]) -> int:
        """Append to sequences; returns the nanoseconds it took."""

    def close(self, sequence: int) -> None:
        """A sequence has ended and stays."""


class Forest:
    """Ours, as an engine step takes tokens in."""

    def __init__(self) -> None:
        self._forest = PromptForest(engine_id=1, max_bytes=1 << 36, seed=0, max_outbox_tokens=0)
        self._handles: dict[int, int] = {}

    def open(self, sequence: int, prompt_number: int) -> None:
        self._handles[sequence] = self._forest.open_row(
            prompt_key(prompt_number),
            np.ones(1, np.int32),
            _NO_IDS,
            sequence_id=sequence,
            policy_version=0,
            lane=LANE_POLICY,
            mode=MODE_POINT_MASS,
            max_new_tokens=0,
            stop_token_ids=_NO_IDS,
        )

    def extend(self, chunks: Sequence[tuple[int, IntArray]]) -> int:
        rows = np.asarray([self._handles[sequence] for sequence, _ in chunks], np.uint64)
        ends = np.cumsum([0, *(len(tokens) for _, tokens in chunks)], dtype=np.int32)
        tokens = np.concatenate([tokens for _, tokens in chunks])
        zeros = np.zeros(len(rows), np.int32)
        nothing = (_NO_PROBS, _NO_IDS, _NO_IDS, _NO_PROBS)
        start = cpu_ns()
        self._forest.step(rows, ends, tokens, zeros, *nothing, zeros, 0.0)
        return cpu_ns() - start

    def close(self, sequence: int) -> None:
        self._forest.close_row(self._handles.pop(sequence))


class Suffix:
    """The peer's, as vLLM adds tokens."""

    def __init__(self) -> None:
        self._cache = SuffixDecodingCache(max_tree_depth=MAX_TREE_DEPTH, max_cached_requests=-1)

    def open(self, sequence: int, prompt_number: int) -> None:
        del prompt_number
        self._cache.start_request(sequence, [1])

    def extend(self, chunks: Sequence[tuple[int, IntArray]]) -> int:
        lists = [(sequence, tokens.tolist()) for sequence, tokens in chunks]
        start = cpu_ns()
        for sequence, tokens in lists:
            self._cache.add_active_response(sequence, tokens)
        return cpu_ns() - start

    def close(self, sequence: int) -> None:
        self._cache.stop_request(sequence)


ARMS: dict[str, Callable[[], Structure]] = {"srt": Forest, "suffix": Suffix}


def texts(responses: Sequence[tuple[int, IntArray]]) -> Iterator[tuple[int, IntArray]]:
    """(prompt number, tokens) without end: as written, then changed under new prompts."""
    yield from responses
    rng = np.random.default_rng(0)
    num_prompts = 1 + max(number for number, _ in responses)
    vocabulary = 1 + max(int(tokens.max()) for _, tokens in responses)
    for copy in range(1, 1 << 20):
        for number, tokens in responses:
            changed = rng.random(len(tokens)) < REPLACED
            other = rng.integers(0, vocabulary, len(tokens), dtype=np.int32)
            yield number + copy * num_prompts, np.where(changed, other, tokens)


def fill(
    structure: Structure, responses: Sequence[tuple[int, IntArray]], num_tokens: int
) -> tuple[float, float]:
    """Insert about so many tokens; returns microseconds a token over the last tenth, and the
    milliseconds of the slowest call.
    """
    source = enumerate(texts(responses), 1)
    running: dict[int, tuple[IntArray, int]] = {}
    num_held = timed_ns = num_timed = slowest_ns = 0
    while num_held < num_tokens:
        while len(running) < NUM_ROWS:
            sequence, (prompt_number, tokens) = next(source)
            structure.open(sequence, prompt_number)
            running[sequence] = (tokens, 0)
        chunks = [(it, tokens[at : at + CHUNK]) for it, (tokens, at) in running.items()]
        nanoseconds, num_new = structure.extend(chunks), sum(len(it) for _, it in chunks)
        num_held += num_new
        slowest_ns = max(slowest_ns, nanoseconds)
        if num_held > 0.9 * num_tokens:
            timed_ns, num_timed = timed_ns + nanoseconds, num_timed + num_new
        for sequence, (tokens, at) in list(running.items()):
            running[sequence] = (tokens, at + CHUNK)
            if at + CHUNK >= len(tokens):
                structure.close(sequence)
                del running[sequence]
    return timed_ns / 1e3 / num_timed, slowest_ns / 1e6


def measure(arm: str, responses: Sequence[tuple[int, IntArray]], num_tokens: int) -> Cost:
    """Fill and drop; to be run in a process of its own."""
    before = resident_bytes()
    structure = ARMS[arm]()
    insert_us, slowest_ms = fill(structure, responses, num_tokens)
    grown = resident_bytes() - before
    start = cpu_ns()
    del structure
    return Cost(insert_us, slowest_ms, grown / num_tokens, (cpu_ns() - start) / 1e6)


def structure_table(responses: Sequence[tuple[int, IntArray]], sizes: Sequence[int]) -> list[str]:
    """Insert, memory and drop by size, ours beside the peer's."""
    context = multiprocessing.get_context("fork")
    lines = [
        "| tokens | trees | insert us/token | at least / goal | slowest call, ms | bytes/token "
        "| drop, ms | at least / goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in sizes:
        for arm in ARMS:
            with context.Pool(1) as pool:
                cost = pool.apply(measure, (arm, responses, size))
            lines.append(
                f"| {size} | {arm} | {cost.insert_us_per_token:.2f} "
                f"| {WANTED_INSERT_US.get(size, '')} | {cost.slowest_insert_ms:.2f} "
                f"| {cost.bytes_per_token:.0f} | {cost.drop_ms:.1f} "
                f"| {WANTED_DROP_MS.get(size, '')} |"
            )
    return lines
