"""Suffix decoding (arXiv 2411.04975) as vLLM's ``method=suffix`` calls it: the peer.

Needs the extra ``simulate`` (arctic-inference). Trees are one process's own and cannot be shared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srt_common.errors import ConfigurationError
from srt_common.simulate.budget import Limits
from srt_common.simulate.drafters import Unshared
from srt_common.simulate.row import Row
from srt_common.simulate.tally import Held, Timing, cpu_ns

MAX_TREE_DEPTH = 24
MAX_SPEC_FACTOR = 1.0
MIN_TOKEN_PROB = 0.1
"""vLLM's defaults."""


class SuffixDecoding(Unshared):
    """`arctic_inference.suffix_decoding.SuffixDecodingCache`, without a limit on its requests."""

    def __init__(self) -> None:
        try:
            from arctic_inference.suffix_decoding import SuffixDecodingCache
        except ImportError as error:
            fault = (
                "--drafter is 'suffix': it needs arctic-inference; install srt-common[simulate], "
                "or take srt, prompt-lookup or none"
            )
            raise ConfigurationError(faults=[fault]) from error
        self.timing = Timing()
        self._cache = SuffixDecodingCache(max_tree_depth=MAX_TREE_DEPTH, max_cached_requests=-1)
        self._num_tokens = 0

    def open(self, row: Row) -> None:
        """Builds the request's own tree of prompt and context."""
        prompt = np.concatenate([row.prompt, row.context])
        start = cpu_ns()
        self._cache.start_request(row.number, prompt)
        self.timing.opened(cpu_ns() - start)

    def step(self, rows: Sequence[Row], limits: Limits) -> list[list[int]]:
        """Adds what was sampled, then speculates; ``min_survival`` is not for this drafter."""
        patterns = [self._pattern(row) for row in rows]
        start = cpu_ns()
        for row in rows:
            if row.new_tokens:
                self._cache.add_active_response(row.number, list(row.new_tokens))
        taken = cpu_ns() - start
        num_tokens = sum(len(row.new_tokens) for row in rows)
        self._num_tokens += num_tokens
        self.timing.inserted(taken, num_tokens)
        if not limits.max_draft_tokens:
            return [[] for _ in rows]
        start = cpu_ns()
        drafts = [
            self._cache.speculate(
                row.number,
                pattern,
                max_spec_tokens=limits.max_draft_tokens,
                max_spec_factor=MAX_SPEC_FACTOR,
                min_token_prob=MIN_TOKEN_PROB,
            ).token_ids
            for row, pattern in zip(rows, patterns, strict=True)
        ]
        self.timing.proposed(cpu_ns() - start, len(rows))
        return drafts

    def close(self, row: Row) -> None:
        """Drops the request's own tree; its response stays in the common one."""
        start = cpu_ns()
        self._cache.stop_request(row.number)
        self.timing.opened(cpu_ns() - start, 0)

    def held(self) -> Held:
        """Responses in the common tree."""
        return Held(self._num_tokens, 0)

    @staticmethod
    def _pattern(row: Row) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """The last tokens up to the tree's depth."""
        tokens = row.rollout.tokens[max(0, row.at - MAX_TREE_DEPTH) : row.at]
        missing = MAX_TREE_DEPTH - len(tokens)
        return np.concatenate([row.prompt[max(0, len(row.prompt) - missing) :], tokens])
