"""What to generate in open bubbles. Pure: no clock, no I/O.

* Prompts of the next steps first, nearest step first, then those of the current step whose
  stragglers still run; within a step the least covered first. What is well covered is left alone.
* A sample that was begun is continued before another one is started.
* Nothing is asked for twice, no engine gets more than twice its free slots, no step more tokens
  than allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from srt_common.coordination import WindowPrompt

QUEUE_FACTOR: Final = 2
"""Chunks queued or running per free slot: enough that a slot never waits for the next tick."""
WELL_COVERED_GROUPS: Final = 4
"""A prompt that has this many groups of sequences in its tree gains little from more."""
MAX_GROUPS_A_VERSION: Final = 2
"""Groups of samples begun for a prompt at one policy version."""


@dataclass(frozen=True, slots=True)
class Room:
    """Space of one engine in an open bubble."""

    engine: str
    num_free_slots: int
    """Slots that run-ahead may use, those it uses now included."""
    num_in_flight: int
    """Chunks sent to the engine's worker and not reported back."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample that run-ahead has begun at one policy version."""

    prompt_key: bytes
    policy_version: int
    index: int
    engine: str
    """Where its last chunk went."""
    num_chunks: int
    """Chunks sent so far."""
    num_tokens: int
    """Tokens its reported chunks have sampled."""
    is_in_flight: bool
    is_finished: bool
    """It ended, or nothing is known of its last chunk: it is not continued."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One task to send."""

    engine: str
    prompt_key: bytes
    sample: int
    index: int
    """Which chunk of the sample, from 0."""
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What could be generated, and how much of it is there already."""

    next_step: int
    """The first optimizer step that no rollout was sampled for yet."""
    straggling_step: int | None = None
    """The step whose last rollouts still run; None: no step is being sampled."""
    policy_version: int
    window: Sequence[WindowPrompt]
    num_sequences: Mapping[bytes, int]
    """In the tree of each prompt, at any policy version; an unknown prompt has none."""
    samples: Sequence[Sample]
    chunk_tokens: int
    num_tokens_left: int | None
    """Run-ahead tokens the step may still ask for; None: no limit."""


def plan_chunks(rooms: Sequence[Room], demand: Demand) -> list[Chunk]:
    """Chunks to send now, most useful first."""
    budget = _Budget(rooms, demand)
    chunks: list[Chunk] = []
    for wanted in (*_continuations(demand), *_beginnings(demand)):
        if budget.is_spent:
            break
        chunks.append(budget.place(wanted))
    return chunks


@dataclass(frozen=True, slots=True)
class _Wanted:
    prompt_key: bytes
    sample: int
    index: int
    max_tokens: int
    engine: str
    """Preferred, because it holds the sample's KV cache; empty: any."""


class _Budget:
    """Room left on engines and tokens left in the step."""

    def __init__(self, rooms: Sequence[Room], demand: Demand) -> None:
        self._places = {
            room.engine: max(0, QUEUE_FACTOR * room.num_free_slots - room.num_in_flight)
            for room in rooms
        }
        self._tokens = demand.num_tokens_left

    @property
    def is_spent(self) -> bool:
        return not any(self._places.values()) or (self._tokens is not None and self._tokens < 1)

    def place(self, wanted: _Wanted) -> Chunk:
        """Take a place for ``wanted``: on its own engine, else where most are left."""
        engine = wanted.engine
        if self._places.get(engine, 0) == 0:
            engine = max(sorted(self._places), key=lambda name: self._places[name])
        self._places[engine] -= 1
        max_tokens = wanted.max_tokens
        if self._tokens is not None:
            max_tokens = min(max_tokens, self._tokens)
            self._tokens -= max_tokens
        return Chunk(engine, wanted.prompt_key, wanted.sample, wanted.index, max_tokens)


def _continuations(demand: Demand) -> Iterator[_Wanted]:
    """Next chunks of samples that were begun at this policy version, most useful prompt first."""
    rank = {
        prompt.prompt_key: (number, prompt)
        for number, prompts in enumerate(_by_usefulness(demand))
        for prompt in prompts
    }
    begun = [
        sample
        for sample in _current(demand)
        if not (sample.is_in_flight or sample.is_finished) and sample.prompt_key in rank
    ]
    begun.sort(key=lambda sample: rank[sample.prompt_key][0])
    for sample in begun:
        left = rank[sample.prompt_key][1].max_tokens - sample.num_tokens
        if left > 0:
            max_tokens = min(demand.chunk_tokens, left)
            yield _Wanted(
                sample.prompt_key, sample.index, sample.num_chunks, max_tokens, sample.engine
            )


def _beginnings(demand: Demand) -> Iterator[_Wanted]:
    """First chunks of new samples: step after step, the least covered prompt each time."""
    next_index: dict[bytes, int] = {}
    for sample in _current(demand):
        next_index[sample.prompt_key] = max(next_index.get(sample.prompt_key, 0), sample.index + 1)
    for prompts in _by_usefulness(demand):
        yield from _fill(prompts, next_index, demand)


def _fill(
    prompts: Sequence[WindowPrompt], next_index: dict[bytes, int], demand: Demand
) -> Iterator[_Wanted]:
    """New samples for the prompts of one step, until each is covered or has had its share."""
    covered = {
        prompt.prompt_key: demand.num_sequences.get(prompt.prompt_key, 0)
        + _num_unseen(prompt.prompt_key, demand)
        for prompt in prompts
    }
    while True:
        lacking = [
            prompt
            for prompt in prompts
            if covered[prompt.prompt_key] < WELL_COVERED_GROUPS * prompt.num_rollouts
            and next_index.get(prompt.prompt_key, 0) < MAX_GROUPS_A_VERSION * prompt.num_rollouts
        ]
        if not lacking:
            return
        prompt = min(lacking, key=lambda p: (covered[p.prompt_key], p.prompt_key))
        index = next_index.get(prompt.prompt_key, 0)
        next_index[prompt.prompt_key] = index + 1
        covered[prompt.prompt_key] += 1
        max_tokens = min(demand.chunk_tokens, prompt.max_tokens)
        yield _Wanted(prompt.prompt_key, index, 0, max_tokens, "")


def _num_unseen(prompt_key: bytes, demand: Demand) -> int:
    """Samples in flight that the tree cannot hold yet."""
    return sum(
        sample.prompt_key == prompt_key and sample.num_tokens == 0 and sample.is_in_flight
        for sample in _current(demand)
    )


def _by_usefulness(demand: Demand) -> Iterator[list[WindowPrompt]]:
    """Prompts of the window in groups of one step, most useful step first, no prompt twice."""
    steps: dict[int, list[WindowPrompt]] = {}
    for prompt in demand.window:
        steps.setdefault(prompt.step, []).append(prompt)
    order = sorted(step for step in steps if step >= demand.next_step)
    if demand.straggling_step in steps and demand.straggling_step not in order:
        order.append(demand.straggling_step)
    seen: set[bytes] = set()
    for step in order:
        fresh = {p.prompt_key: p for p in steps[step] if p.prompt_key not in seen}
        seen |= fresh.keys()
        yield list(fresh.values())


def _current(demand: Demand) -> list[Sample]:
    return [s for s in demand.samples if s.policy_version == demand.policy_version]
