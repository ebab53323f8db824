"""Recorded rollouts as a replay needs them. Pure: no I/O.

* Tokens of a rollout lie in one array, all turns and observations in order; turns are ranges of it.
* Distributions, where known, lie in one ragged array over all generated tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]

MAX_TARGETS: Final = 8
"""Pairs of a distribution that an engine hands to the trees."""
_ID_BITS: Final = 24


class Turn(NamedTuple):
    """A generated part of a rollout."""

    start: int
    """Within the rollout's tokens; what lies before it is the turn's context."""
    end: int
    first_row: int
    """Number of its first token among all generated tokens of the trace."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One recorded rollout, all its turns."""

    prompt_index: int
    policy_version: int
    tokens: IntArray
    """[T] after the prompt: generated and observed."""
    turns: tuple[Turn, ...]
    """In order, not empty, none of them empty."""
    is_exact: bool = True
    """Whether the trace's distributions are complete for it."""

    @property
    def num_generated(self) -> int:
        """Tokens the policy sampled."""
        return sum(turn.end - turn.start for turn in self.turns)


@dataclass(frozen=True)
class PolicyRows:
    """The policy's next-token distribution at every generated token, ragged."""

    offsets: NDArray[np.int64]
    """[N+1]."""
    token_ids: IntArray
    """[M] of each row the most probable first."""
    probs: FloatArray
    """[M]."""

    def __post_init__(self) -> None:
        assert self._sorted  # made once, before anything is measured

    def select(self, start: int, end: int, *, limit: int | None = None) -> RaggedRows:
        """Rows start..end-1, each cut to its ``limit`` first entries."""
        bounds = self.offsets[start : end + 1]
        first, last = int(bounds[0]), int(bounds[-1])
        token_ids, probs = self.token_ids[first:last], self.probs[first:last]
        lengths = np.diff(bounds)
        if limit is None or not len(lengths) or lengths.max() <= limit:
            return RaggedRows(lengths, token_ids, probs)
        place = np.arange(last - first) - np.repeat(bounds[:-1] - first, lengths)
        kept = place < limit
        return RaggedRows(np.minimum(lengths, limit), token_ids[kept], probs[kept])

    def probabilities(self, numbers: NDArray[np.int64], token_ids: IntArray) -> FloatArray:
        """Of tokens [n, k] at generated tokens ``numbers`` [n]; 0 where a row lacks one."""
        wanted = (numbers[:, None] << _ID_BITS) | token_ids
        keys, probs = self._sorted
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, probs[at], np.float32(0))

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], FloatArray]:
        numbers = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        keys = (numbers << _ID_BITS) | self.token_ids
        order = np.argsort(keys)
        return keys[order], self.probs[order]


class RaggedRows(NamedTuple):
    """Some rows of distributions."""

    lengths: NDArray[np.int64]
    token_ids: IntArray
    probs: FloatArray


@dataclass(frozen=True)
class Trace:
    """Recorded rollouts in the order in which they were sampled."""

    name: str
    prompts: Sequence[IntArray]
    rollouts: Sequence[Rollout]
    rows: PolicyRows | None = None
    batches_end_with_version: bool = False
    """Rollouts of different policy versions never ran at the same time."""
    stop_token_ids: IntArray = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def num_generated(self) -> int:
        """Tokens the policy sampled, all rollouts."""
        return sum(rollout.num_generated for rollout in self.rollouts)

    def first(self, num_rollouts: int | None) -> Trace:
        """The trace cut to its first rollouts; None: all of it."""
        return replace(self, rollouts=self.rollouts[:num_rollouts])

    @property
    def exact_versions(self) -> list[int]:
        """Policy versions with complete distributions, oldest first."""
        return sorted({it.policy_version for it in self.rollouts if self.rows and it.is_exact})


def find_stop_tokens(rollouts: Iterable[Rollout]) -> IntArray:
    """Tokens that end at least half of all turns and never stand inside one [0 or 1]."""
    turns = [it.tokens[turn.start : turn.end] for it in rollouts for turn in it.turns]
    if not turns:
        return np.zeros(0, np.int32)
    token, count = Counter(int(turn[-1]) for turn in turns).most_common(1)[0]
    is_inside = any(token in turn[:-1] for turn in turns)
    found = [] if is_inside or 2 * count < len(turns) else [token]
    return np.asarray(found, np.int32)
