"""The tree store inside one process: for tests and for a job that shares with nobody.

* Keeps entries as the same bytes as the Redis log, through the same codec and limits.
* Belongs to one event loop; `close` forgets nothing, so that a second reader can go on.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from srt_common.clock import Clock, SystemClock
from srt_common.errors import MessageError
from srt_common.keys import PromptKey, shard_of
from srt_common.messages.tree_updates import PromptRemoved, TreeUpdate
from srt_common.store.base import START, ShardBatch, StoredSnapshot
from srt_common.store.cursors import format_cursor, is_before, parse_cursor
from srt_common.store.entries import decode_entries, encode_entries
from srt_common.store.snapshots import decode_snapshot, encode_snapshot


class _Shard:
    """Log, floor and snapshots of one shard."""

    def __init__(self) -> None:
        self.positions: list[tuple[int, int]] = []
        self.entries: list[bytes] = []
        self.head = START
        self.floor = START
        self.snapshots: dict[PromptKey, bytes] = {}


class MemoryStore:
    """`TreeStore` in process memory."""

    def __init__(self, *, num_shards: int, clock: Clock | None = None) -> None:
        """An empty store; cursors carry the clock's time, as a server's do.

        Raises:
            ValueError: no shard.
        """
        if num_shards < 1:
            raise ValueError(f"num_shards is {num_shards}; allowed is 1 or more")
        self._shards = [_Shard() for _ in range(num_shards)]
        self._clock = clock or SystemClock()
        self._newest = (0, 0)
        self._appended = asyncio.Condition()

    @property
    def num_shards(self) -> int:
        """Fixed for the life of a cache."""
        return len(self._shards)

    async def append(self, updates: Sequence[TreeUpdate]) -> None:
        """Publish updates, each to the shard of its prompt."""
        by_shard: dict[int, list[TreeUpdate]] = {}
        for update in updates:
            by_shard.setdefault(self._index(PromptKey(update.prompt_key)), []).append(update)
        for shard, of_shard in by_shard.items():
            for entry in encode_entries(of_shard):
                await self.append_entry(shard, entry)

    async def append_entry(self, shard: int, entry: bytes) -> None:
        """Publish bytes as they are, as any writer with access to a log could."""
        milliseconds, sequence = self._newest
        now = int(self._clock.unix() * 1000)
        self._newest = (now, 0) if now > milliseconds else (milliseconds, sequence + 1)
        held = self._shards[shard]
        held.head = format_cursor(self._newest)
        held.positions.append(self._newest)
        held.entries.append(entry)
        async with self._appended:
            self._appended.notify_all()

    async def heads(self) -> dict[int, str]:
        """Newest cursor of every shard."""
        return {index: shard.head for index, shard in enumerate(self._shards)}

    async def floors(self) -> dict[int, str]:
        """Newest trimmed cursor of every shard."""
        return {index: shard.floor for index, shard in enumerate(self._shards)}

    async def read(
        self, cursors: Mapping[int, str], *, block_seconds: float = 0.0, max_entries: int = 512
    ) -> list[ShardBatch]:
        """Entries after each shard's cursor, at most ``max_entries`` a shard."""
        batches = self._news(cursors, max_entries)
        if batches or block_seconds <= 0:
            return batches
        try:
            async with asyncio.timeout(block_seconds), self._appended:
                while not batches:
                    await self._appended.wait()
                    batches = self._news(cursors, max_entries)
        except TimeoutError:
            return []
        return batches

    async def put_snapshot(self, prompt_key: PromptKey, snapshot: StoredSnapshot) -> None:
        """Replace a prompt's snapshot, unless it is older than the one held or than the log."""
        data, shard = encode_snapshot(snapshot), self._shard(prompt_key)
        held = await self.snapshot(prompt_key)
        included = max(shard.floor, held.cursor if held else START, key=parse_cursor)
        if not is_before(snapshot.cursor, included):
            shard.snapshots[prompt_key] = data

    async def snapshot(self, prompt_key: PromptKey) -> StoredSnapshot | None:
        """Newest compacted tree of a prompt, or None."""
        data = self._shard(prompt_key).snapshots.get(prompt_key)
        try:
            return None if data is None else decode_snapshot(data)
        except MessageError:
            return None

    async def snapshot_keys(self, shard: int) -> list[PromptKey]:
        """Prompts of a shard that have a snapshot."""
        return list(self._shards[shard].snapshots)

    async def remove_prompt(self, prompt_key: PromptKey) -> None:
        """Delete a prompt's snapshot and publish `PromptRemoved`."""
        self._shard(prompt_key).snapshots.pop(prompt_key, None)
        await self.append([PromptRemoved(prompt_key)])

    async def trim(self, shard: int, cursor: str) -> None:
        """Move the floor up to ``cursor`` and forget what lies below; a floor never moves down."""
        held = self._shards[shard]
        if not is_before(held.floor, cursor):
            return
        held.floor = cursor
        end = bisect_right(held.positions, parse_cursor(cursor))
        del held.positions[:end], held.entries[:end]

    async def wipe(self) -> None:
        """Forget everything, as a server that lost its memory does; later cursors go on growing."""
        self._shards = [_Shard() for _ in self._shards]

    def spoil_snapshot(self, prompt_key: PromptKey, data: bytes) -> None:
        """Put bytes in a snapshot's place, as any writer with access to a server could."""
        self._shard(prompt_key).snapshots[prompt_key] = data

    async def close(self) -> None:
        """Nothing to let go of."""

    def _index(self, prompt_key: PromptKey) -> int:
        return shard_of(prompt_key, len(self._shards))

    def _shard(self, prompt_key: PromptKey) -> _Shard:
        return self._shards[self._index(prompt_key)]

    def _news(self, cursors: Mapping[int, str], max_entries: int) -> list[ShardBatch]:
        batches = (
            _batch(index, self._shards[index], cursor, max_entries)
            for index, cursor in cursors.items()
        )
        return [batch for batch in batches if batch is not None]


def _batch(index: int, shard: _Shard, cursor: str, max_entries: int) -> ShardBatch | None:
    """What a reader at ``cursor`` gets, or None when there is nothing to tell it."""
    has_gap = is_before(cursor, shard.floor)
    start = bisect_right(shard.positions, parse_cursor(cursor))
    entries = shard.entries[start : start + max_entries]
    if entries:
        updates, num_rejected = decode_entries(entries)
        last = format_cursor(shard.positions[start + len(entries) - 1])
        return ShardBatch(index, last, updates, num_rejected, has_gap)
    if has_gap:
        return ShardBatch(index, shard.floor, [], 0, has_gap=True)
    if is_before(max(shard.head, shard.floor, key=parse_cursor), cursor):
        return ShardBatch(index, START, [], 0, has_gap=True)
    return None
