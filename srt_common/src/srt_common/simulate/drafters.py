"""Drafters behind one protocol, as an engine would call them: open a row, one step after another,
close it. The two that need no library are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from srt_common.simulate.budget import Limits
from srt_common.simulate.row import Row
from srt_common.simulate.tally import Held, Timing, cpu_ns
from srt_common.tree import Update

MIN_NGRAM = 2
MAX_NGRAM = 4
"""Prompt lookup matches the longest of the last 4 to 2 tokens."""


class Drafter(Protocol):
    """One engine's drafter. A step is told what its rows sampled and returns what to verify."""

    timing: Timing

    def open(self, row: Row) -> None:
        """A turn begins; its prompt and context are known."""
        ...

    def step(self, rows: Sequence[Row], limits: Limits) -> list[list[int]]:
        """Take every row's ``new_tokens`` and draft what follows; one draft a row."""
        ...

    def close(self, row: Row) -> None:
        """A turn has ended; all its tokens have been told."""
        ...

    def drain(self) -> list[Update]:
        """What its rows have sampled since the last call, for other replicas."""
        ...

    def apply(self, updates: Sequence[Update]) -> None:
        """Take what other replicas sampled."""
        ...

    def held(self) -> Held:
        """What it keeps now."""
        ...


class Unshared:
    """Part of drafters that no other replica learns from."""

    def drain(self) -> list[Update]:
        """Nothing."""
        return []

    def apply(self, updates: Sequence[Update]) -> None:
        """Not for this drafter."""

    def held(self) -> Held:
        """Nothing that outlives a request."""
        return Held(0, 0)


class NoDrafter(Unshared):
    """Plain decoding: the yardstick."""

    def __init__(self) -> None:
        self.timing = Timing()

    def open(self, row: Row) -> None:
        """Nothing to prepare."""

    def step(self, rows: Sequence[Row], limits: Limits) -> list[list[int]]:
        """No draft for any row."""
        del limits
        return [[] for _ in rows]

    def close(self, row: Row) -> None:
        """Nothing to forget."""


class PromptLookup(Unshared):
    """What followed the last tokens where they first occurred in the rollout itself.

    Times are of this Python code; vLLM's n-gram drafter is compiled.
    """

    def __init__(self) -> None:
        self.timing = Timing()
        self._texts: dict[int, _Text] = {}

    def open(self, row: Row) -> None:
        """Index what is new of the conversation."""
        start = cpu_ns()
        text = self._texts.setdefault(row.conversation, _Text())
        text.extend(row.text_before(len(text.tokens)))
        self.timing.opened(cpu_ns() - start)

    def step(self, rows: Sequence[Row], limits: Limits) -> list[list[int]]:
        """Index new tokens, then look the last ones up."""
        texts = [self._texts[row.conversation] for row in rows]
        start = cpu_ns()
        for text, row in zip(texts, rows, strict=True):
            text.extend(row.new_tokens)
        middle = cpu_ns()
        drafts = [text.follow(limits.max_draft_tokens) for text in texts]
        self.timing.proposed(cpu_ns() - middle, len(rows))
        self.timing.inserted(middle - start, sum(len(row.new_tokens) for row in rows))
        return drafts

    def close(self, row: Row) -> None:
        """Forget the conversation after its last turn."""
        if row.is_last_turn:
            del self._texts[row.conversation]


class _Text:
    """A conversation with the first place of each of its n-grams, as vLLM's drafter takes it."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._first_end: dict[tuple[int, ...], int] = {}

    def extend(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            self.tokens.append(token_id)
            for length in range(MIN_NGRAM, min(MAX_NGRAM, len(self.tokens)) + 1):
                self._first_end.setdefault(tuple(self.tokens[-length:]), len(self.tokens))

    def follow(self, limit: int) -> list[int]:
        """What came after the last tokens where they occurred first."""
        for length in range(MAX_NGRAM, MIN_NGRAM - 1, -1):
            end = self._first_end.get(tuple(self.tokens[-length:]), len(self.tokens))
            if end < len(self.tokens):
                return self.tokens[end : end + limit]
        return []
