"""The contract every tree store keeps (suite: tests/contract/test_tree_store.py).

Consistency: a log per shard. Entries of a shard are seen by every reader in one order; an append
may appear twice (a retried one) and a reader may miss a stretch that was trimmed, which `read`
tells it. Merging is idempotent, so both only cost speed. Nothing here is on a decode path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from srt_common.keys import PromptKey
from srt_common.messages.tree_updates import TreeUpdate

START = "0-0"
"""Cursor before the first entry a shard ever had."""


class ShardBatch(msgspec.Struct, frozen=True):
    """What one shard had after a cursor."""

    shard: int
    cursor: str
    """Pass it to the next `read`."""
    updates: list[TreeUpdate]
    num_rejected: int
    """Entries that were no messages of ours; skipped."""
    has_gap: bool
    """Entries between the given cursor and the first of these were trimmed: load snapshots, then go
    on.
    """


class StoredSnapshot(msgspec.Struct, frozen=True):
    """A compacted tree and the log position it includes."""

    image: bytes
    cursor: str


class TreeStore(Protocol):
    """Replicated log of tree updates with snapshots. Safe to share between tasks of one event loop.

    Every method raises `TreeStoreUnavailable` when the store does not answer within its time limit.
    """

    @property
    def num_shards(self) -> int:
        """Fixed for the life of a cache."""
        ...

    async def append(self, updates: Sequence[TreeUpdate]) -> None:
        """Publish updates, each to the shard of its prompt. A retry may duplicate, never
        reorder.
        """
        ...

    async def heads(self) -> dict[int, str]:
        """Newest cursor of every shard; START where nothing was ever appended."""
        ...

    async def floors(self) -> dict[int, str]:
        """Newest trimmed cursor of every shard; START where nothing was trimmed.

        Snapshots read after this call hold everything up to it: a reader that loads them all may
        start here.
        """
        ...

    async def read(
        self, cursors: Mapping[int, str], *, block_seconds: float = 0.0, max_entries: int = 512
    ) -> list[ShardBatch]:
        """Entries after each shard's cursor; waits up to ``block_seconds`` for the first one.

        At most ``max_entries`` a shard. Shards without news are left out. A log that was wiped is a
        gap too, and is read again from its start. Never blocks longer than ``block_seconds`` plus
        the time limit.
        """
        ...

    async def put_snapshot(self, prompt_key: PromptKey, snapshot: StoredSnapshot) -> None:
        """Replace a prompt's snapshot.

        Nothing happens when the one held includes more of the log, or when the log was trimmed past
        the new one: entries in between would be lost.

        Raises:
            MessageTooLarge: an image beyond `srt_common.store.snapshots.MAX_SNAPSHOT_BYTES`.
        """
        ...

    async def snapshot(self, prompt_key: PromptKey) -> StoredSnapshot | None:
        """Newest compacted tree of a prompt; None when there is none or it cannot be read."""
        ...

    async def snapshot_keys(self, shard: int) -> list[PromptKey]:
        """Prompts of a shard that have a snapshot."""
        ...

    async def remove_prompt(self, prompt_key: PromptKey) -> None:
        """Delete a prompt's snapshot and publish `PromptRemoved`."""
        ...

    async def trim(self, shard: int, cursor: str) -> None:
        """Forget entries up to and including ``cursor``; readers behind it are told by
        ``has_gap``.
        """
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...
