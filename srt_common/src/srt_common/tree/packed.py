"""Tokens and soft targets in the packed forms of ``_tree.pyi``, from and to what Python holds.

* Whole arrays at a time; only `pack_soft_targets` walks, as its rows differ in length.
* Whether packed bytes are well formed is decided where they are applied, not here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from srt_common.tree._tree import MAX_SOFT_TARGETS

TOKEN_LIMIT = 1 << 24
"""Token ids are below it."""

MIN_PROBABILITY = 0.004
"""Less probable soft targets are left out."""

_CODES_PER_NAT = 255 / 5.6


def pack_tokens(token_ids: ArrayLike) -> bytes:
    """Token ids [T] as 3 bytes each, little-endian.

    Raises:
        ValueError: an id outside [0, 2**24).
    """
    ids = np.asarray(token_ids, dtype=np.int64).reshape(-1)
    if ids.size and not 0 <= ids.min() <= ids.max() < TOKEN_LIMIT:
        raise ValueError(f"token_ids holds {ids.min()} to {ids.max()}, but must hold 0 to 2^24 - 1")
    return ids.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def unpack_tokens(packed: bytes) -> NDArray[np.int32]:
    """Token ids [T] of 3 bytes each."""
    triples = np.frombuffer(packed, dtype=np.uint8).reshape(-1, 3)
    ids = np.zeros((len(triples), 4), dtype=np.uint8)
    ids[:, :3] = triples
    return ids.reshape(-1).view("<i4").astype(np.int32)


def pack_soft_targets(rows: Sequence[Sequence[tuple[int, float]]]) -> bytes:
    """Soft targets of T positions, each (token id, probability) in any order.

    Kept are the 8 largest of at least 0.004. Empty when no position keeps any.
    """
    packed = bytearray()
    for row in rows:
        kept = sorted((pair for pair in row if pair[1] >= MIN_PROBABILITY), key=lambda it: -it[1])
        kept = kept[:MAX_SOFT_TARGETS]
        packed.append(len(kept))
        for token_id, probability in kept:
            packed += pack_tokens([token_id]) + bytes([_code(probability)])
    return bytes(packed) if any(packed) else b""


def unpack_soft_targets(packed: bytes) -> list[list[tuple[int, float]]]:
    """The inverse of `pack_soft_targets`, up to the 8 bits a probability has."""
    rows, at = [], 0
    while at < len(packed):
        end = at + 1 + 4 * packed[at]
        pairs = np.frombuffer(packed[at + 1 : end], dtype=np.uint8).reshape(-1, 4)
        ids = unpack_tokens(pairs[:, :3].tobytes()).tolist()
        probs = np.exp(-pairs[:, 3].astype(np.float64) / _CODES_PER_NAT).tolist()
        rows.append(list(zip(ids, probs, strict=True)))
        at = end
    return rows


def _code(probability: float) -> int:
    return int(np.clip(np.rint(-np.log(probability) * _CODES_PER_NAT), 0, 255))
