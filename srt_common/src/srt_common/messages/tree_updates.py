"""The update log between rollout engines and the tree cache.

* Every update carries ``(sequence_id, offset)``: replaying, reordering or duplicating it is
  harmless.
* ``prompt_key`` stands in for the prompt; the log never holds prompt text.
* Variants are told apart by their tag; a new variant or a changed meaning is a new
  `SCHEMA_VERSION`.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

SCHEMA_VERSION = 1

LANE_POLICY = 0
LANE_RUN_AHEAD = 1
FLAG_OBSERVATION = 1


class TokensAppended(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="a"):
    """Tokens a rollout gained since its last update. Rollout engine -> log."""

    prompt_key: bytes
    """16-byte digest of the prompt, see ``srt_common.keys``."""
    sequence_id: int
    """Unique for ever: minted anew for every attempt of a request."""
    offset: int
    """Index of the first token within what followed the prompt. Makes replay idempotent."""
    policy_version: int
    """Optimizer steps applied to the weights that sampled these tokens."""
    lane: int
    """LANE_POLICY or LANE_RUN_AHEAD."""
    engine_id: int
    """The engine that sampled them, see ``srt_common.keys.engine_id``."""
    flags: int
    """Bit 0: the environment wrote these tokens (observation), the policy did not."""
    tokens: bytes
    """Packed, 3 bytes a token id, little-endian."""
    soft: bytes = b""
    """Packed soft targets (format: ``srt_common.tree._tree``); empty when none was recorded."""


class TokensUsed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="u"):
    """Positions that supplied an accepted draft token for the first time on some engine.

    Retention by value reads them, and the count of run-ahead tokens that paid.
    """

    prompt_key: bytes
    sequence_id: int
    offsets: list[int]


class PromptRemoved(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="r"):
    """The cache dropped a prompt's tree; engines may drop theirs. Later appends start it anew."""

    prompt_key: bytes


TreeUpdate: TypeAlias = TokensAppended | TokensUsed | PromptRemoved
