"""What names a prompt everywhere: a keyed digest, so that keys cannot be tested against a
dictionary.

* The same inputs give the same key on every machine and version.
* Two jobs share trees only when they share the TreeCache's secret (design 12.5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NewType

import numpy as np
import xxhash

from srt_common.errors import ConfigurationError

PromptKey = NewType("PromptKey", bytes)
"""16 bytes."""

PROMPT_KEY_BYTES = 16


def read_secret(field: str, path: Path) -> bytes:
    """A file's content without white space at its ends.

    Raises:
        ConfigurationError: it cannot be read; names ``field``.
    """
    try:
        return path.read_bytes().strip()
    except OSError as error:
        fault = f"{field} is '{path}', which cannot be read: {error.strerror}"
        raise ConfigurationError(faults=[fault]) from error


def read_cache_secret(field: str, path: Path) -> bytes:
    """The TreeCache's secret, 1 to 64 bytes.

    Raises:
        ConfigurationError: it cannot be read, or has another size; names ``field``.
    """
    secret = read_secret(field, path)
    if not 1 <= len(secret) <= hashlib.blake2b.MAX_KEY_SIZE:
        fault = f"{field} is '{path}', which holds {len(secret)} bytes; allowed are 1 to 64"
        raise ConfigurationError(faults=[fault])
    return secret


def tokenizer_fingerprint(tokenizer_json: bytes) -> bytes:
    """Digest [16 bytes] of a tokenizer file: equal text means equal token ids."""
    return hashlib.blake2b(tokenizer_json, digest_size=16, person=b"srt-tokenizer").digest()


def prompt_key(
    secret: bytes,
    fingerprint: bytes,
    *,
    token_ids: Sequence[int],
    prompt_id: str | None = None,
) -> PromptKey:
    """Key of the tree a prompt's rollouts share.

    Args:
        secret: the TreeCache's secret, 1..64 bytes.
        fingerprint: of the tokenizer, see `tokenizer_fingerprint`.
        token_ids: [P] served prompt of the first turn; ignored when ``prompt_id`` is given.
        prompt_id: the client's name of a task whose first tokens may coincide with another's.

    Raises:
        ValueError: an empty or too long secret, or no tokens and no id.
    """
    if not 1 <= len(secret) <= hashlib.blake2b.MAX_KEY_SIZE:
        raise ValueError(f"secret has {len(secret)} bytes; allowed are 1 to 64")
    digest = hashlib.blake2b(key=secret, digest_size=PROMPT_KEY_BYTES, person=b"srt-prompt-key")
    digest.update(len(fingerprint).to_bytes(2, "little") + fingerprint)
    if prompt_id is not None:
        digest.update(b"i" + prompt_id.encode())
    elif len(token_ids) > 0:
        digest.update(b"t" + np.asarray(token_ids, dtype="<i4").tobytes())
    else:
        raise ValueError("token_ids is empty; a prompt has at least one token")
    return PromptKey(digest.digest())


def shard_of(key: PromptKey, num_shards: int) -> int:
    """Shard 0..num_shards-1 that a prompt's updates and snapshots live in."""
    return xxhash.xxh3_64_intdigest(key) % num_shards


def engine_id(name: str) -> int:
    """Stable 32-bit id of an engine: a restarted engine of the same name knows its own tokens
    again.
    """
    return xxhash.xxh32_intdigest(name.encode())
