"""Prompt keys as this engine computes them: shared with a cache's other engines, or private to the
process.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from srt_common.errors import ConfigurationError
from srt_common.keys import PromptKey, prompt_key, read_cache_secret, tokenizer_fingerprint
from srt_rollout.vllm_plugin.settings import DrafterSettings


class PromptKeys:
    """Keys prompts with one secret and one tokenizer."""

    def __init__(self, secret: bytes, fingerprint: bytes) -> None:
        self._secret = secret
        self._fingerprint = fingerprint

    @classmethod
    def of(cls, settings: DrafterSettings, tokenizer: Path) -> Self:
        """Read the cache's secret and the tokenizer's fingerprint.

        Raises:
            ConfigurationError: trees are shared but there is no secret, or none of 1 to 64 bytes.
        """
        file = tokenizer / "tokenizer.json"
        fingerprint = tokenizer_fingerprint(file.read_bytes()) if file.is_file() else b""
        if settings.cache_secret_file is not None:
            field = "SRT_DRAFTER_CACHE_SECRET_FILE"
            return cls(read_cache_secret(field, settings.cache_secret_file), fingerprint)
        if settings.cache_url is not None:
            raise ConfigurationError(
                faults=[
                    "SRT_DRAFTER_CACHE_SECRET_FILE is not set; "
                    "it is required with SRT_DRAFTER_CACHE_URL"
                ]
            )
        return cls(secrets.token_bytes(32), fingerprint)

    def key(self, token_ids: Sequence[int], prompt_id: str | None) -> PromptKey:
        """See `srt_common.keys.prompt_key`."""
        return prompt_key(self._secret, self._fingerprint, token_ids=token_ids, prompt_id=prompt_id)
