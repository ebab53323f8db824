"""Asks the tree cache how well prompts are covered, and what run-ahead has been worth.

* A replica that cannot be understood, such as one of another version, counts as away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import httpx
import msgspec

from srt_common.messages.tree_cache import (
    COVERAGE_PATH,
    MAX_COVERAGE_KEYS,
    STATS_PATH,
    CacheStats,
    CoverageRequest,
    PromptSummary,
)
from srt_operator.http_client import Answer, answer_of

TIMEOUT_SECONDS: Final = 2.0
_SUMMARIES: Final = msgspec.json.Decoder(list[PromptSummary])
_STATS: Final = msgspec.json.Decoder(CacheStats)


class TreeCacheClient:
    """All replicas of a job's cache; any of them may answer. Belongs to one event loop."""

    def __init__(
        self, client: httpx.AsyncClient, replicas: Sequence[str], *, token: Callable[[], str]
    ) -> None:
        """``replicas``: base URLs; ``token`` is asked for each request."""
        self._client = client
        self._replicas = replicas
        self._token = token

    async def num_sequences(self, prompt_keys: Sequence[bytes]) -> Mapping[bytes, int] | None:
        """Sequences in the tree of each prompt, at any policy version; None: nobody answers."""
        keys = [key.hex() for key in prompt_keys[:MAX_COVERAGE_KEYS]]
        body = msgspec.json.encode(CoverageRequest(keys))
        for replica in self._replicas:
            summaries = await self._ask("POST", replica + COVERAGE_PATH, body, _SUMMARIES)
            if summaries is not None:
                found = {summary.prompt_key: summary.num_sequences for summary in summaries}
                return {key: found[key.hex()] for key in prompt_keys if key.hex() in found}
        return None

    async def num_run_ahead_tokens_used(self) -> int | None:
        """Run-ahead tokens that supplied an accepted draft token; None: nobody answers.

        Every replica follows the whole log, so the one that is furthest knows best.
        """
        counts = [stats.num_run_ahead_tokens_used for stats in await self.stats()]
        return max(counts, default=None)

    async def stats(self) -> list[CacheStats]:
        """What each replica that answers says of itself."""
        answers: list[CacheStats] = []
        for replica in self._replicas:
            answer = await self._ask("GET", replica + STATS_PATH, None, _STATS)
            if answer is not None:
                answers.append(answer)
        return answers

    async def _ask(
        self, method: str, url: str, body: bytes | None, decoder: msgspec.json.Decoder[Answer]
    ) -> Answer | None:
        return await answer_of(
            self._client,
            url,
            decoder.decode,
            method=method,
            content=body,
            headers={"authorization": f"Bearer {self._token()}"},
            timeout=TIMEOUT_SECONDS,
        )
