"""A forest of one prompt, and one-row calls on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from srt_common.keys import PromptKey
from srt_common.tree import LANE_POLICY, MODE_SAMPLED, Drafts, PromptForest, Update, pack_tokens

KEY = PromptKey(b"k" * 16)
NO_TOKENS = np.zeros(0, np.int32)
NO_PROBS = np.zeros(0, np.float32)
PROMPT = np.array([1, 2, 3], np.int32)


def make_forest(**options: Any) -> PromptForest:
    return PromptForest(**{"engine_id": 1, "max_bytes": 1 << 26, "seed": 0} | options)


def update(
    tokens: list[int], *, sequence_id: int = 5, offset: int = 0, key: bytes = KEY, **fields: Any
) -> Update:
    values: dict[str, Any] = {
        "policy_version": 0,
        "lane": 0,
        "engine_id": 2,
        "flags": 0,
        "soft": b"",
    } | fields
    return (
        key,
        sequence_id,
        offset,
        values["policy_version"],
        values["lane"],
        values["engine_id"],
        values["flags"],
        pack_tokens(tokens),
        values["soft"],
    )


def extend(forest: PromptForest, it: Update) -> int:
    return forest.extend(
        PromptKey(it[0]),
        it[1],
        it[2],
        policy_version=it[3],
        lane=it[4],
        engine_id=it[5],
        flags=it[6],
        tokens=it[7],
        soft=it[8],
    )


def open_row(forest: PromptForest, *, sequence_id: int = 9, **options: Any) -> int:
    fields: dict[str, Any] = {
        "policy_version": 0,
        "lane": LANE_POLICY,
        "mode": MODE_SAMPLED,
        "max_new_tokens": 0,
        "stop_token_ids": NO_TOKENS,
    } | options
    context = fields.pop("context", NO_TOKENS)
    key = fields.pop("key", KEY)
    return forest.open_row(key, PROMPT, context, sequence_id=sequence_id, **fields)


def step(
    forest: PromptForest,
    row: int,
    tokens: list[int],
    *,
    accepted: int = 0,
    max_draft: int = 4,
    **arrays: Any,
) -> Drafts:
    """One row's step; ``accepted`` positions of its last draft were verified."""
    fields: dict[str, Any] = {
        "rows": np.array([row], np.uint64),
        "new_offsets": np.array([0, len(tokens)], np.int32),
        "new_tokens": np.array(tokens, np.int32),
        "num_verified": np.array([accepted], np.int32),
        "overlap": NO_PROBS,
        "soft_offsets": NO_TOKENS,
        "soft_token_ids": NO_TOKENS,
        "soft_probs": NO_PROBS,
        "max_draft_tokens": np.array([max_draft], np.int32),
        "min_survival": 0.0,
    }
    return forest.step(**(fields | arrays))


def state(forest: PromptForest) -> tuple[object, ...]:
    forest.check()
    return (forest.stats(), forest.snapshot(KEY), forest.prompt_keys())
