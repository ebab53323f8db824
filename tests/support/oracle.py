"""A forest that is obviously right: lists and dicts, written from the definitions, never from the
native code.

* Statistics: context counts over the candidates of recency chains of orders 2, 4 and 8, read only
  while no candidate of the position before goes on and enough of q is still to be given away.
* Estimate: Jelinek-Mercer interpolation from low orders to high, all prompts before the own one.
* Calibration: mean acceptance per (count, order, confidence) cell, one table a way of drafting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Pairs = Sequence[tuple[int, int]]
"""Soft targets of a position: (token, 8-bit code)."""

ORDERS = (2, 3, 4, 6, 8, 12, 16)
CHAIN_ORDERS = (8, 4, 2)
LIMITS = {"G": 8, "L": 16}
PROMPT_WEIGHT = 0.3
HARD_GAMMA = 1.5
MAX_Q = 8
GLOBAL_RARITY = 4
WORTH_READING = 0.1
NEGLIGIBLE = {True: 0.005, False: 0.02}
"""By whether drafts are sampled."""
NEARLY = 1e-4
"""Keeps sums that should meet a cell's edge from falling short of it by rounding."""

HISTORY, ONLINE, RUN_AHEAD = range(3)


@dataclass(frozen=True)
class Origin:
    policy_version: int
    lane: int
    engine_id: int


@dataclass(eq=False)
class Text:
    """A sequence, or a prompt (no origin)."""

    origin: Origin | None
    tokens: list[int] = field(default_factory=list)
    soft: list[Pairs] = field(default_factory=list)
    observed: list[bool] = field(default_factory=list)
    used: set[int] = field(default_factory=set)

    def is_sampled(self, index: int) -> bool:
        return index < len(self.tokens) and not self.observed[index]


@dataclass(frozen=True)
class Position:
    text: Text
    index: int


@dataclass
class Tree:
    prompt: Text | None = None
    texts: dict[int, Text] = field(default_factory=dict)


@dataclass
class Search:
    """What was found in one scope: (tokens that agree, position), best first."""

    found: list[tuple[int, Position]]
    max_recent: int
    floor: int = 0
    """Shorter matches may still be looked for."""


@dataclass(frozen=True)
class Level:
    scope: str
    order: int
    counts: Mapping[int, float]

    @property
    def total(self) -> float:
        return sum(self.counts.values())

    @property
    def cell(self) -> tuple[str, int, int, int]:
        distinct = len(self.counts)
        distinct_class = 0 if distinct <= 1 else 1 if distinct == 2 else 2 if distinct <= 4 else 3
        return (self.scope, self.order, count_class(self.total, 8), distinct_class)


@dataclass(frozen=True)
class Estimate:
    levels: Sequence[Level]
    q: Mapping[int, float]
    """The mixture, not cut and not normalised."""
    candidates: Mapping[str, Sequence[tuple[int, Position]]]

    @property
    def confidence(self) -> float:
        return max(self.q.values())

    @property
    def match_length(self) -> int:
        return max(found[0][0] for found in self.candidates.values() if found)


@dataclass
class Drafted:
    """One estimated position; `token` is None where the draft stopped."""

    estimate: Estimate
    cell: tuple[object, ...]
    token: int | None = None
    supplier: Position | None = None


@dataclass
class Row:
    key: bytes
    tree: Tree
    text: list[int]
    """Prompt, context, own tokens."""
    sequence_id: int
    origin: Origin
    is_sampled: bool
    offset: int
    """Where in the sequence its next token goes."""
    num_left: int | None
    """Tokens it may still keep."""
    stop_token: int | None
    draft: list[Drafted] = field(default_factory=list)
    match_length: int | None = None
    """Of the lookup behind the draft."""
    is_kept: bool = True


def count_class(total: float, largest: int) -> int:
    return min(max(math.floor(math.log2(max(total, 0.26) * (1 + NEARLY))) + 2, 0), largest)


def probability(code: int) -> float:
    return math.exp(-code * 5.6 / 255)


class Mean:
    """A mean that starts from a prior worth ``strength`` observations."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.sums: dict[object, float] = {}
        self.counts: dict[object, int] = {}

    def value(self, cell: object, prior: float) -> float:
        total = self.sums.get(cell, 0.0) + self.strength * prior
        return total / (self.counts.get(cell, 0) + self.strength)

    def add(self, cell: object, value: float) -> None:
        self.sums[cell] = self.sums.get(cell, 0.0) + value
        self.counts[cell] = self.counts.get(cell, 0) + 1


class OracleForest:
    """Trees, chains and tables of one engine."""

    def __init__(self, *, engine_id: int, soft_targets: bool, max_recent_positions: int) -> None:
        self.engine_id = engine_id
        self.soft_targets = soft_targets
        self.max_recent = max_recent_positions
        self.trees: dict[bytes, Tree] = {}
        self.chains: dict[tuple[object, tuple[int, ...]], list[Position]] = {}
        self.mixing = Mean(4)
        self.calibration = Mean(3)
        self.newly_used: dict[tuple[bytes, int], set[int]] = {}

    # -- what is held ------------------------------------------------------------------------------
    def tree(self, key: bytes) -> Tree:
        return self.trees.setdefault(key, Tree())

    def set_prompt(self, key: bytes, tokens: Sequence[int]) -> None:
        tree = self.tree(key)
        if tree.prompt is not None:
            return
        short = [
            (text, i) for _, text in sorted(tree.texts.items()) for i in range(len(text.tokens))
        ]
        before = {(text, i): len(self.before(tree, text, i)) for text, i in short}
        tree.prompt = Text(None)
        for token in tokens:
            self._append(key, tree.prompt, token, (), is_observation=False)
        for text, i in short:
            if not text.observed[i]:
                self._link(key, Position(text, i), above=before[text, i])

    def append(
        self,
        key: bytes,
        sequence_id: int,
        origin: Origin,
        items: Sequence[tuple[int, Pairs]],
        *,
        is_observation: bool,
    ) -> None:
        if not items:
            return
        text = self.tree(key).texts.setdefault(sequence_id, Text(origin))
        for token, pairs in items:
            self._append(key, text, token, pairs, is_observation=is_observation)

    def _append(
        self, key: bytes, text: Text, token: int, pairs: Pairs, *, is_observation: bool
    ) -> None:
        text.tokens.append(token)
        text.soft.append(pairs)
        text.observed.append(is_observation)
        if not is_observation:
            self._link(key, Position(text, len(text.tokens) - 1), above=0)

    def _link(self, key: bytes, position: Position, *, above: int) -> None:
        before = self.before(self.tree(key), position.text, position.index)
        for order in CHAIN_ORDERS:
            if above < order <= len(before):
                context = tuple(before[-order:])
                self.chains.setdefault((key, context), []).append(position)
                if position.text.origin is not None:
                    self.chains.setdefault(("all", context), []).append(position)

    @staticmethod
    def before(tree: Tree, text: Text, index: int) -> list[int]:
        prompt = [] if tree.prompt is None or text is tree.prompt else tree.prompt.tokens
        return prompt + text.tokens[:index]

    def remove_sequence(self, key: bytes, sequence_id: int) -> bool:
        text = self.trees[key].texts.pop(sequence_id, None) if key in self.trees else None
        if text is not None:
            self._unlink({id(text)})
        return text is not None

    def remove_policy_version(self, policy_version: int) -> int:
        num_tokens = 0
        for key, tree in self.trees.items():
            for sequence_id, text in list(tree.texts.items()):
                if text.origin is not None and text.origin.policy_version == policy_version:
                    num_tokens += len(text.tokens)
                    self.remove_sequence(key, sequence_id)
        return num_tokens

    def remove_prompt(self, key: bytes) -> bool:
        tree = self.trees.pop(key, None)
        if tree is not None:
            texts = [*tree.texts.values(), *([tree.prompt] if tree.prompt else [])]
            self._unlink({id(text) for text in texts})
        return tree is not None

    def _unlink(self, gone: set[int]) -> None:
        for chain in self.chains.values():
            chain[:] = [position for position in chain if id(position.text) not in gone]

    # -- what follows a context --------------------------------------------------------------------
    def read(
        self, scope: str, key: bytes, context: Sequence[int], order: int, search: Search
    ) -> None:
        """Look for what matches ``order`` tokens, and what the same chain tells besides."""
        reached = [it for it in CHAIN_ORDERS if it <= min(order, len(context))]
        if not reached or order >= search.floor:
            return
        chain = self.chains.get((key if scope == "L" else "all", tuple(context[-reached[0] :])), [])
        for position in reversed(chain[-search.max_recent :]):
            agreed = self._agreement(position, context, LIMITS[scope])
            if agreed < search.floor:
                search.found.append((agreed, position))
        search.found.sort(key=lambda it: -it[0])
        search.floor = reached[0]

    def _agreement(self, position: Position, context: Sequence[int], limit: int) -> int:
        tree = next(
            tree
            for tree in self.trees.values()
            if position.text is tree.prompt or position.text in tree.texts.values()
        )
        before = self.before(tree, position.text, position.index)
        agreed = 0
        while (
            agreed < min(limit, len(before), len(context))
            and before[-1 - agreed] == context[-1 - agreed]
        ):
            agreed += 1
        return agreed

    def continuations(self, position: Position) -> Iterator[tuple[int, float]]:
        """(token, weight) that a position says."""
        text, index = position.text, position.index
        weight = PROMPT_WEIGHT if text.origin is None else 1.0
        if self.soft_targets and text.soft[index]:
            for token, code in text.soft[index]:
                yield token, weight * probability(code)
        else:
            yield text.tokens[index], weight

    def survivors(
        self, before: Estimate, scope: str, context: Sequence[int]
    ) -> list[tuple[int, Position]]:
        """Candidates of the estimate before that continue with the context's last token, one
        position on.
        """
        moved = [
            Position(position.text, position.index + 1)
            for _, position in before.candidates[scope]
            if position.text.tokens[position.index] == context[-1]
            and position.text.is_sampled(position.index + 1)
        ]
        return [(self._agreement(it, context, LIMITS[scope]), it) for it in moved]

    def estimate(
        self,
        key: bytes,
        context: Sequence[int],
        before: Estimate | None = None,
        *,
        is_sampled: bool,
    ) -> Estimate | None:
        """What follows a context; ``before`` is the estimate of the draft's position before it."""
        max_recent = self.max_recent if is_sampled else math.ceil(self.max_recent / 2)
        limits = {"L": max_recent, "G": math.ceil(max_recent / GLOBAL_RARITY)}
        searches = {
            scope: Search(self.survivors(before, scope, context) if before else [], limit)
            for scope, limit in limits.items()
        }
        for scope, search in searches.items():
            search.floor = 0 if search.found else LIMITS[scope] + 1
        levels: list[Level] = []
        remaining = 1.0
        for order, scope in ((order, scope) for order in reversed(ORDERS) for scope in "LG"):
            if order > LIMITS[scope] or remaining < NEGLIGIBLE[is_sampled]:
                continue
            if remaining > WORTH_READING:
                self.read(scope, key, context, order, searches[scope])
            counts = self._counts(searches[scope].found, order)
            if counts:
                levels.insert(0, Level(scope, order, counts))
                remaining *= 1 - self.mixing_weight(levels[0])
        found = {scope: search.found for scope, search in searches.items()}
        return Estimate(levels, self._mixture(levels), found) if levels else None

    def _counts(self, found: Sequence[tuple[int, Position]], order: int) -> dict[int, float]:
        counts: dict[int, float] = {}
        for agreed, position in found:
            if agreed >= order:
                for token, weight in self.continuations(position):
                    counts[token] = counts.get(token, 0.0) + weight
        return counts

    def _mixture(self, levels: Sequence[Level]) -> dict[int, float]:
        q: dict[int, float] = {}
        for level in levels:
            weight = self.mixing_weight(level)
            q = {token: (1 - weight) * mass for token, mass in q.items()}
            for token, count in level.counts.items():
                q[token] = q.get(token, 0.0) + weight * count / level.total
        return q

    def mixing_weight(self, level: Level) -> float:
        prior = level.total / (level.total + 0.5 * len(level.counts) + 0.3)
        return self.mixing.value(level.cell, prior)

    def cut(self, estimate: Estimate, *, is_sampled: bool) -> dict[int, float]:
        """What is shipped, most probable first."""
        ranked = sorted(estimate.q.items(), key=lambda it: (-it[1], it[0]))
        likely = [it for it in ranked if it[1] >= 1e-6] or ranked[:1]
        ranked = likely[: MAX_Q if is_sampled else 1]
        gamma = 1.0 if self.soft_targets else HARD_GAMMA
        total = sum(mass**gamma for _, mass in ranked)
        return {token: mass**gamma / total for token, mass in ranked}

    def calibration_cell(self, estimate: Estimate, *, is_sampled: bool) -> tuple[object, ...]:
        deepest = estimate.levels[-1]
        order_class = sum(deepest.order > edge for edge in (2, 4, 8, 14))
        confidence = min(11, int(estimate.confidence * 12 + NEARLY))
        return (is_sampled, count_class(deepest.total, 9), order_class, confidence)

    def supplier(self, estimate: Estimate, token: int) -> Position | None:
        for level in reversed(estimate.levels):
            for agreed, position in estimate.candidates[level.scope]:
                if agreed >= level.order and token in dict(self.continuations(position)):
                    return position
        return None

    # -- what became of a draft --------------------------------------------------------------------
    def learn(
        self, row: Row, tokens: Sequence[int], num_verified: int, overlap: Sequence[float]
    ) -> int:
        """Learn from a row's verified draft; returns how many tokens were accepted.

        ``overlap`` is empty (the accept bits count) or holds one value a verified position.
        """
        num_accepted = 0
        verified = list(zip(row.draft[:num_verified], tokens, strict=False))
        while num_accepted < len(verified) and (
            verified[num_accepted][0].token == verified[num_accepted][1]
        ):
            num_accepted += 1
        for i, (drafted, token) in enumerate(zip(row.draft, tokens, strict=False)):
            if i > num_accepted:
                break
            self._learn_mixing(drafted.estimate, token)
            if i < num_verified:
                accepted = overlap[i] if overlap else float(i < num_accepted)
                if not math.isnan(accepted):
                    self.calibration.add(drafted.cell, accepted)
        for drafted in row.draft[:num_accepted]:
            if drafted.supplier is not None:
                self._mark_used(drafted.supplier)
        return num_accepted

    def _learn_mixing(self, estimate: Estimate, token: int) -> None:
        below = 1e-4
        for level in estimate.levels:
            weight = self.mixing_weight(level)
            explained = weight * level.counts.get(token, 0.0) / level.total
            total = max(1e-9, explained + (1 - weight) * below)
            self.mixing.add(level.cell, min(1.0, explained / total))
            below = total

    def _mark_used(self, position: Position) -> None:
        for key, tree in self.trees.items():
            for sequence_id, text in tree.texts.items():
                if text is position.text and position.index not in text.used:
                    text.used.add(position.index)
                    self.newly_used.setdefault((key, sequence_id), set()).add(position.index)

    def source(self, supplier: Position | None, row: Row) -> int:
        origin = None if supplier is None else supplier.text.origin
        if origin is None:
            return HISTORY
        if origin.lane == 1:
            return RUN_AHEAD
        return ONLINE if origin.policy_version == row.origin.policy_version else HISTORY

    def is_remote(self, supplier: Position | None) -> bool:
        origin = None if supplier is None else supplier.text.origin
        return origin is not None and origin.engine_id != self.engine_id


@dataclass
class Truth:
    """What a sequence will be once all its updates have come."""

    origin: Origin
    tokens: list[int]
    soft: list[Pairs]
    observed: list[bool]

    def run_end(self, start: int) -> int:
        """End of the run of equal flags that `start` is in."""
        end = start
        while end < len(self.tokens) and self.observed[end] == self.observed[start]:
            end += 1
        return end


def random_pairs(rng: np.random.Generator, num_tokens: int) -> Pairs:
    num_pairs = int(rng.integers(0, min(num_tokens, 8) + 1)) if rng.random() < 0.7 else 0
    tokens = rng.permutation(num_tokens)[:num_pairs].tolist()
    return list(zip(tokens, sorted(rng.integers(0, 250, num_pairs).tolist()), strict=True))


def random_truth(rng: np.random.Generator, num_tokens: int) -> Truth:
    length = int(rng.integers(1, 60))
    origin = Origin(*(int(rng.integers(0, 2)) for _ in range(3)))
    switches = rng.random(length) < 0.1
    return Truth(
        origin,
        rng.integers(0, num_tokens, length).tolist(),
        [random_pairs(rng, num_tokens) for _ in range(length)],
        (np.cumsum(switches) % 3 == 1).tolist(),
    )
