"""Tells the tree cache which prompts are about to be decoded here, so that their trees are at hand.

* Never waited for and never an error: a hint that is lost costs a cold first draft.
* The same key as the drafter computes: the cache's secret, the tokenizer, the prompt (design 12.5).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx

from srt_common.bearer import BearerToken
from srt_common.keys import PromptKey, prompt_key, read_cache_secret, tokenizer_fingerprint

_LOG = logging.getLogger(__name__)

MAX_REMEMBERED_PROMPTS: Final = 4096
MAX_PENDING: Final = 64
TIMEOUT_SECONDS: Final = 5.0


class PromptPrefetch:
    """One hint per prompt that has not been seen lately."""

    def __init__(self, client: httpx.AsyncClient, *, secret: bytes, fingerprint: bytes) -> None:
        self._client = client
        self._secret = secret
        self._fingerprint = fingerprint
        self._seen: OrderedDict[PromptKey, None] = OrderedDict()
        self._pending: set[asyncio.Task[None]] = set()

    @classmethod
    def to(cls, url: str, *, token: BearerToken, secret_file: Path, model: Path) -> PromptPrefetch:
        """Hints for the tree cache at ``url``, of prompts in the tokenizer of ``model``."""
        file = model / "tokenizer.json"
        client = httpx.AsyncClient(
            base_url=url,
            timeout=TIMEOUT_SECONDS,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )
        return cls(
            client,
            secret=read_cache_secret("SRT_ROLLOUT_CACHE_SECRET_FILE", secret_file),
            fingerprint=tokenizer_fingerprint(file.read_bytes()) if file.is_file() else b"",
        )

    def hint(
        self, token_ids: Sequence[int], prompt_id: str | None, headers: Mapping[str, str]
    ) -> None:
        """A prompt has arrived; ``headers`` carry its trace context."""
        key = prompt_key(self._secret, self._fingerprint, token_ids=token_ids, prompt_id=prompt_id)
        is_known = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > MAX_REMEMBERED_PROMPTS:
            self._seen.popitem(last=False)
        if not is_known and len(self._pending) < MAX_PENDING:
            task = asyncio.create_task(self._send(key, dict(headers)))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def close(self) -> None:
        """Give up what is pending."""
        for task in self._pending:
            task.cancel()
        await self._client.aclose()

    async def _send(self, key: PromptKey, headers: Mapping[str, str]) -> None:
        try:
            await self._client.post(f"/v1/prompts/{key.hex()}/prefetch", headers=headers)
        except httpx.HTTPError as error:
            _LOG.info("prefetch hint lost", extra={"error_type": type(error).__name__})
