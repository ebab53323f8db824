"""The tree store on a Redis-protocol server: a stream, a floor and snapshots per shard.

Keys of shard ``s`` of cache ``c`` share the hash tag ``{c:s}``, so they share a slot:

    srt:{c:s}:log          stream  field ``d``: one entry of messages.codec
    srt:{c:s}:floor        string  newest trimmed id, written in one MULTI with the XTRIM
    srt:{c:s}:snap:<hex>   string  msgpack [version, cursor, zstd image]
    srt:{c:s}:snapidx      hash    prompt key -> ``<cursor> <bytes>``

* Redis 7.0 commands only. Plain ``XREAD``; cursors are the readers', the server keeps none.
* ``XREAD`` from a trimmed id skips silently, so floors are read *after* entries and compared.
* A log that was wiped, or whose ids went back, shows as a gap too and is read from its start.
* The client repeats a command once and only when the connection broke: an append may appear twice.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Self, TypeAlias, cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError, WatchError
from redis.maint_notifications import MaintNotificationsConfig

from srt_common.errors import MessageError, TreeStoreUnavailable
from srt_common.keys import PROMPT_KEY_BYTES, PromptKey, shard_of
from srt_common.messages.tree_updates import PromptRemoved, TreeUpdate
from srt_common.store.base import START, ShardBatch, StoredSnapshot
from srt_common.store.cursors import is_before, parse_cursor, successor
from srt_common.store.entries import decode_entries, encode_entries
from srt_common.store.snapshots import decode_snapshot, encode_snapshot

_LOG = logging.getLogger(__name__)

DEFAULT_TIMEOUT_SECONDS: Final = 2.0
RETRY_AFTER_SECONDS: Final = 0.05
HEALTH_CHECK_SECONDS: Final = 15
AUDIT_SECONDS: Final = 1.0
_FIELD: Final = b"d"
_Entries: TypeAlias = list[tuple[bytes, dict[bytes, bytes] | None]]
_Reply: TypeAlias = dict[bytes, _Entries]
"""Of ``XREAD`` under protocol 3: stream to entries."""
_CACHE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def connect(url: str, *, timeout_seconds: float) -> Redis:
    """A client of ``redis[s]://`` or ``unix://``; connects at the first command.

    Connecting gets ``timeout_seconds``, and so does every answer. What failed because a connection
    broke or was not greeted is tried once more; a late answer is final. So a command ends after
    twice that time at most. Replies have the shapes of protocol 3; values are bytes.

    Raises:
        ValueError: a URL of another scheme.
    """
    return Redis.from_url(
        url,
        protocol=3,
        legacy_responses=False,
        decode_responses=False,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        health_check_interval=HEALTH_CHECK_SECONDS,
        retry=Retry(
            ConstantBackoff(RETRY_AFTER_SECONDS), 1, supported_errors=(RedisConnectionError,)
        ),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


class RedisLogStore:
    """`TreeStore` on a Redis-protocol server."""

    def __init__(
        self,
        redis: Redis,
        *,
        cache: str,
        num_shards: int,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        address: str = "redis",
        audit_seconds: float = AUDIT_SECONDS,
    ) -> None:
        """Take over ``redis``: `close` closes it.

        Args:
            redis: from `connect`, with the same ``timeout_seconds``.
            cache: the TreeCache id; part of every key.
            num_shards: fixed for the life of the cache.
            timeout_seconds: limit of a whole call, waiting for news not counted.
            address: names the server in errors, without its password.
            audit_seconds: how often an idle reader compares its cursors with floors and heads.

        Raises:
            ValueError: an id that cannot be part of a key, or no shard.
        """
        if not _CACHE_ID.fullmatch(cache):
            raise ValueError(f"cache is {cache!r}; allowed are 1 to 128 of A-Z a-z 0-9 . _ -")
        if num_shards < 1:
            raise ValueError(f"num_shards is {num_shards}; allowed is 1 or more")
        self._redis = redis
        self._cache = cache
        self._num_shards = num_shards
        self._timeout_seconds = timeout_seconds
        self._address = address
        self._audit_seconds = audit_seconds
        self._audited_at = -audit_seconds

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        cache: str,
        num_shards: int,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> Self:
        """Connect lazily to ``redis[s]://`` or ``unix://``."""
        return cls(
            connect(url, timeout_seconds=timeout_seconds),
            cache=cache,
            num_shards=num_shards,
            timeout_seconds=timeout_seconds,
            address=url.rsplit("@", maxsplit=1)[-1],
        )

    @property
    def num_shards(self) -> int:
        """Fixed for the life of a cache."""
        return self._num_shards

    # -- log -----------------------------------------------------------------------------------
    async def append(self, updates: Sequence[TreeUpdate]) -> None:
        """Publish updates, all shards in one round trip."""
        by_shard: dict[int, list[TreeUpdate]] = {}
        for update in updates:
            shard = shard_of(PromptKey(update.prompt_key), self._num_shards)
            by_shard.setdefault(shard, []).append(update)
        if not by_shard:
            return
        async with self._limited(), self._redis.pipeline(transaction=False) as pipe:
            for shard, of_shard in by_shard.items():
                for entry in encode_entries(of_shard):
                    pipe.xadd(self._key(shard, "log"), {_FIELD: entry})
            await pipe.execute()

    async def heads(self) -> dict[int, str]:
        """Newest cursor of every shard."""
        async with self._limited():
            infos = await self._stream_infos(range(self._num_shards))
        return dict(enumerate(map(_head, infos)))

    async def floors(self) -> dict[int, str]:
        """Newest trimmed cursor of every shard."""
        async with self._limited():
            return await self._floors(range(self._num_shards))

    async def read(
        self, cursors: Mapping[int, str], *, block_seconds: float = 0.0, max_entries: int = 512
    ) -> list[ShardBatch]:
        """Entries after each shard's cursor, at most ``max_entries`` a shard."""
        until = time.monotonic() + block_seconds
        async with self._limited(block_seconds):
            while True:
                remaining = until - time.monotonic()
                # A server that waits is silent meanwhile: stay below the socket's time limit.
                wait_seconds = min(remaining, self._timeout_seconds / 2)
                batches = await self._read_news(cursors, wait_seconds, max_entries)
                batches = batches or await self._audit(cursors)
                if batches or remaining <= 0:
                    return batches

    async def trim(self, shard: int, cursor: str) -> None:
        """Move the floor up to ``cursor`` and forget what lies below; a floor never moves down."""
        floor_key = self._key(shard, "floor")
        async with self._limited(), self._redis.pipeline(transaction=True) as pipe:
            await pipe.watch(floor_key)
            if not is_before(_text(cast("bytes | None", await pipe.get(floor_key))), cursor):
                return
            pipe.multi()  # type: ignore[no-untyped-call]
            pipe.set(floor_key, cursor)
            pipe.xtrim(self._key(shard, "log"), minid=successor(cursor), approximate=False)
            with suppress(WatchError):  # somebody else has just trimmed
                await pipe.execute()

    # -- snapshots -----------------------------------------------------------------------------
    async def put_snapshot(self, prompt_key: PromptKey, snapshot: StoredSnapshot) -> None:
        """Replace a prompt's snapshot, unless it is older than the one held or than the log."""
        data = encode_snapshot(snapshot)
        async with self._limited(), self._redis.pipeline(transaction=True) as pipe:
            while not await self._try_to_put(pipe, prompt_key, snapshot.cursor, data):
                continue  # somebody else has just written one, maybe an older one

    async def _try_to_put(
        self, pipe: Pipeline, prompt_key: PromptKey, cursor: str, data: bytes
    ) -> bool:
        """False when the snapshot held, or the floor, changed while they were looked at."""
        shard, name = self._shard_of(prompt_key), self._snapshot_key(prompt_key)
        index, floor_key = self._key(shard, "snapidx"), self._key(shard, "floor")
        await pipe.watch(name, floor_key)
        held = cast("bytes | None", await pipe.hget(index, cast(str, prompt_key)))
        floor = _text(cast("bytes | None", await pipe.get(floor_key)))
        held_cursor = _text(held and held.partition(b" ")[0])
        if is_before(cursor, max(floor, held_cursor, key=parse_cursor)):
            return True
        pipe.multi()  # type: ignore[no-untyped-call]
        pipe.set(name, data)
        pipe.hset(index, mapping={prompt_key: f"{cursor} {len(data)}"})
        try:
            await pipe.execute()
        except WatchError:
            return False
        return True

    async def snapshot(self, prompt_key: PromptKey) -> StoredSnapshot | None:
        """Newest compacted tree of a prompt, or None."""
        async with self._limited():
            data = await self._redis.get(self._snapshot_key(prompt_key))
        if data is None:
            return None
        try:
            return decode_snapshot(cast(bytes, data))
        except MessageError as error:
            extra = {"prompt_key": prompt_key.hex(), "reason": error.reason}
            _LOG.warning("a snapshot cannot be read and is ignored", extra=extra)
            return None

    async def snapshot_keys(self, shard: int) -> list[PromptKey]:
        """Prompts of a shard that have a snapshot."""
        async with self._limited():
            keys = await self._redis.hkeys(self._key(shard, "snapidx"))
        return _prompt_keys(cast(list[bytes], keys))

    async def remove_prompt(self, prompt_key: PromptKey) -> None:
        """Delete a prompt's snapshot and publish `PromptRemoved`."""
        shard = self._shard_of(prompt_key)
        [entry] = encode_entries([PromptRemoved(prompt_key)])
        async with self._limited(), self._redis.pipeline(transaction=True) as pipe:
            pipe.unlink(self._snapshot_key(prompt_key))
            pipe.hdel(self._key(shard, "snapidx"), prompt_key)
            pipe.xadd(self._key(shard, "log"), {_FIELD: entry})
            await pipe.execute()

    async def forget(self) -> None:
        """Delete everything the cache has on the server, all shards in two round trips. Nobody may
        be using it any more.
        """
        shards, extra_seconds = range(self.num_shards), self._timeout_seconds * self.num_shards
        async with (
            self._limited(extra_seconds),
            self._redis.pipeline(transaction=False) as reading,
            self._redis.pipeline(transaction=False) as removing,
        ):
            for shard in shards:
                reading.hkeys(self._key(shard, "snapidx"))
            for shard, keys in zip(shards, await reading.execute(), strict=True):
                names = [f"snap:{key.hex()}" for key in _prompt_keys(keys)]
                names += ["log", "floor", "snapidx", "owner", "owner_epoch"]
                removing.unlink(*(self._key(shard, name) for name in names))
            await removing.execute()

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        await self._redis.aclose()

    # -- inside --------------------------------------------------------------------------------
    def _key(self, shard: int, name: str) -> str:
        return f"srt:{{{self._cache}:{shard}}}:{name}"

    def _shard_of(self, prompt_key: PromptKey) -> int:
        return shard_of(prompt_key, self._num_shards)

    def _snapshot_key(self, prompt_key: PromptKey) -> str:
        return self._key(self._shard_of(prompt_key), "snap:" + prompt_key.hex())

    @asynccontextmanager
    async def _limited(self, extra_seconds: float = 0.0) -> AsyncIterator[None]:
        """A time limit for what is inside, and our errors in place of the client's."""
        try:
            async with asyncio.timeout(self._timeout_seconds + extra_seconds):
                yield
        except (RedisError, OSError) as error:
            reason = str(error) or f"nothing within {self._timeout_seconds + extra_seconds:g} s"
            raise TreeStoreUnavailable(address=self._address, reason=reason) from error

    async def _read_news(
        self, cursors: Mapping[int, str], wait_seconds: float, max_entries: int
    ) -> list[ShardBatch]:
        """One XREAD, then the floors of the shards it has news of."""
        if not cursors:
            return []
        shards = {self._key(shard, "log").encode(): shard for shard in cursors}
        streams: dict[Any, Any] = {key: cursors[shard] for key, shard in shards.items()}
        # BLOCK 0 would wait for ever.
        block = int(max(0.0, wait_seconds) * 1000) or None
        reply = await self._redis.xread(streams, count=max_entries, block=block)
        news = {shards[key]: entries for key, entries in cast(_Reply, reply).items()}
        floors = await self._floors(news)
        return [
            _batch(shard, entries, has_gap=is_before(cursors[shard], floors[shard]))
            for shard, entries in news.items()
        ]

    async def _audit(self, cursors: Mapping[int, str]) -> list[ShardBatch]:
        """Gaps that `_read_news` cannot see: nothing follows them, or ids went back."""
        now = time.monotonic()
        if now - self._audited_at < self._audit_seconds:
            return []
        self._audited_at = now
        floors = await self._floors(cursors)
        infos = await self._stream_infos(cursors)
        batches = []
        for (shard, cursor), info in zip(cursors.items(), infos, strict=True):
            floor = floors[shard]
            if is_before(cursor, floor):
                batches.append(ShardBatch(shard, floor, [], 0, has_gap=True))
            elif is_before(max(_head(info), floor, key=parse_cursor), cursor):
                batches.append(ShardBatch(shard, START, [], 0, has_gap=True))
        return batches

    async def _floors(self, shards: Iterable[int]) -> dict[int, str]:
        shards = list(shards)
        if not shards:
            return {}
        async with self._redis.pipeline(transaction=False) as pipe:
            for shard in shards:
                pipe.get(self._key(shard, "floor"))
            return dict(zip(shards, map(_text, await pipe.execute()), strict=True))

    async def _stream_infos(self, shards: Iterable[int]) -> list[Any]:
        """Of each shard what ``XINFO STREAM`` says, or the error of a log that does not exist."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for shard in shards:
                pipe.xinfo_stream(self._key(shard, "log"))
            return list(await pipe.execute(raise_on_error=False))


def _head(info: Any) -> str:
    """Newest id from a reply of ``XINFO STREAM``; START when there is no stream."""
    return START if isinstance(info, ResponseError) else _text(info["last-generated-id"])


def _text(cursor: bytes | None) -> str:
    """A stored cursor; START when there is none or it is none of ours."""
    if cursor is None:
        return START
    try:
        parse_cursor(text := cursor.decode())
    except ValueError:
        return START
    return text


def _batch(shard: int, entries: _Entries, *, has_gap: bool) -> ShardBatch:
    """What a reader gets from the entries of one stream."""
    updates, num_rejected = decode_entries((fields or {}).get(_FIELD) for _, fields in entries)
    return ShardBatch(shard, entries[-1][0].decode(), updates, num_rejected, has_gap)


def _prompt_keys(keys: Sequence[bytes]) -> list[PromptKey]:
    """What names snapshots in an index."""
    return [PromptKey(key) for key in keys if len(key) == PROMPT_KEY_BYTES]
