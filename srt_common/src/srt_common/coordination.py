"""Small shared facts of a job on a Redis-protocol server: phases, window, bubbles, leases.

* Every key of a job sits under ``srt:{<job>:ctl}:``, so they share one slot; shard leases sit
  beside their shard.
* What must not outlive its holder has a time to live: bubbles (3 s), leases (10 s), claims,
  prompts.
* Prompts lie here under their ``prompt_key``; tasks and spans carry keys, never tokens
  (design 12.14).
* Every method raises `CoordinationUnavailable` when the server does not answer in time, or holds
  what cannot be read, as while releases change over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Literal, Self, TypeVar, cast

import msgspec
import numpy as np
from redis.asyncio import Redis
from redis.exceptions import RedisError

from srt_common.errors import CoordinationUnavailable, LeaseLost
from srt_common.keys import PromptKey
from srt_common.messages.runahead import RunaheadOutcome
from srt_common.store.redis_log import connect

_T = TypeVar("_T")
Phase = Literal["rollout", "reward", "train", "weight_sync", "checkpoint", "eval", "finished"]

BUBBLE_TTL_SECONDS: Final = 3.0
LEASE_TTL_SECONDS: Final = 10.0
PROMPT_TTL_SECONDS: Final = 3600
CLAIM_TTL_SECONDS: Final = 120
PARTIAL_TTL_SECONDS: Final = 600
MAX_DEAD_LETTERS: Final = 1000
MAX_ABORT_SECONDS: Final = 10_000

_NEXT_EPOCH = """
if redis.call('EXISTS', KEYS[1]) == 0 then
    local now = redis.call('TIME')
    redis.call('SET', KEYS[1], string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000)))
end
return redis.call('INCR', KEYS[1])
"""
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class PhaseReport(msgspec.Struct, frozen=True):
    """What the trainer says it is doing. Renewed at least every few seconds while it lives."""

    phase: Phase
    step: int
    """Optimizer step being worked on, from 0."""
    policy_version: int
    num_pending: int
    """Rollouts of the step that no engine has been given yet."""
    reported_at_unix: float


class WindowPrompt(msgspec.Struct, frozen=True):
    """A prompt that will be sampled soon."""

    prompt_key: bytes
    step: int
    """The optimizer step that will sample it."""
    num_rollouts: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_token_ids: tuple[int, ...] = ()


class Bubble(msgspec.Struct, frozen=True):
    """Leave to run ahead on one engine; gone when its key is gone."""

    epoch: int
    deadline_at_unix: float


class UnfinishedSample(msgspec.Struct, frozen=True):
    """A run-ahead sample whose last chunk ended before the sample did."""

    prompt_key: str
    """Hex of the 16-byte key."""
    sample: int
    policy_version: int
    chunk: int
    """The chunk that would go on with it, 1 or more."""
    token_ids: tuple[int, ...]
    """Sampled so far, by all its chunks."""


class RunaheadTotals(msgspec.Struct, frozen=True):
    """What became of all chunks of a job so far."""

    num_results: dict[str, int]
    """Chunks by ``RunaheadOutcome.result``."""
    num_tokens: int
    num_finished: int
    """Samples that reached their end."""
    abort_seconds: tuple[float, ...]
    """Of aborted chunks, oldest first, the newest `MAX_ABORT_SECONDS`."""


class Coordination:
    """One job's view of the coordination server. Safe to share between tasks of one event loop."""

    def __init__(self, redis: Redis, *, job: str, address: str) -> None:
        self._redis = redis
        self._address = address
        self._prefix = f"srt:{{{job}:ctl}}:"

    @classmethod
    def from_url(cls, url: str, *, job: str, timeout_seconds: float = 2.0) -> Self:
        """Connect lazily to ``redis[s]://`` or ``unix://``."""
        redis = connect(url, timeout_seconds=timeout_seconds)
        return cls(redis, job=job, address=url.rsplit("@", maxsplit=1)[-1])

    def _translated(self) -> AbstractAsyncContextManager[None]:
        return _translated(self._address)

    def _decoded(self, data: Any, kind: type[_T]) -> _T:
        try:
            return msgspec.msgpack.decode(data, type=kind)
        except msgspec.DecodeError as error:
            reason = f"what it holds cannot be read ({error})"
            raise CoordinationUnavailable(address=self._address, reason=reason) from error

    # -- phases and window (trainer writes, operator reads)
    async def publish_phase(self, report: PhaseReport) -> None:
        """Replace the job's phase report."""
        async with self._translated():
            await self._redis.set(self._prefix + "phase", msgspec.msgpack.encode(report))

    async def phase(self) -> PhaseReport | None:
        """The last report, however old: judge its age by ``reported_at_unix``."""
        async with self._translated():
            data = await self._redis.get(self._prefix + "phase")
        return None if data is None else self._decoded(data, PhaseReport)

    async def publish_window(
        self, prompts: Sequence[WindowPrompt], token_ids: Sequence[Sequence[int]]
    ) -> None:
        """Replace the look-ahead window; ``token_ids[i]`` is the text of ``prompts[i]``."""
        async with self._translated():
            pipe = self._redis.pipeline(transaction=True)
            for prompt, tokens in zip(prompts, token_ids, strict=True):
                packed = np.asarray(tokens, dtype="<i4").tobytes()
                key = self._prefix + "prompt:" + prompt.prompt_key.hex()
                pipe.set(key, packed, ex=PROMPT_TTL_SECONDS)
            pipe.set(self._prefix + "window", msgspec.msgpack.encode(list(prompts)))
            await pipe.execute()

    async def window(self) -> list[WindowPrompt]:
        """Prompts of the steps to come, nearest step first."""
        async with self._translated():
            data = await self._redis.get(self._prefix + "window")
        return [] if data is None else self._decoded(data, list[WindowPrompt])

    async def prompt_tokens(self, prompt_key: PromptKey) -> list[int] | None:
        """Text [P] of a window prompt, or None once it has expired."""
        async with self._translated():
            data = await self._redis.get(self._prefix + "prompt:" + prompt_key.hex())
        return None if data is None else np.frombuffer(cast(bytes, data), dtype="<i4").tolist()

    # -- bubbles (operator opens, run-ahead workers obey)
    async def next_epoch(self) -> int:
        """A number larger than any handed out before for this job, also by a server that has
        forgotten them: it begins at the server's clock, in milliseconds.
        """
        async with self._translated():
            return int(await self._redis.eval(_NEXT_EPOCH, 1, self._prefix + "epoch"))

    async def hold_bubble(self, engine: str, bubble: Bubble) -> None:
        """Open a bubble or keep it open for another `BUBBLE_TTL_SECONDS`."""
        async with self._translated():
            await self._redis.set(
                self._prefix + "bubble:" + engine,
                msgspec.msgpack.encode(bubble),
                px=int(BUBBLE_TTL_SECONDS * 1000),
            )

    async def close_bubble(self, engine: str) -> None:
        """Close at once; workers see it at their next look."""
        async with self._translated():
            await self._redis.delete(self._prefix + "bubble:" + engine)

    async def bubble(self, engine: str) -> Bubble | None:
        """The open bubble of an engine, or None."""
        async with self._translated():
            data = await self._redis.get(self._prefix + "bubble:" + engine)
        return None if data is None else self._decoded(data, Bubble)

    # -- run-ahead samples and their chunks (workers write, operator reads)
    async def claim_sample(
        self, prompt_key: str, sample: int, policy_version: int, task: str, *, chunk: int = 0
    ) -> bool:
        """True for the first task that asks for this chunk of a sample, and for the same task
        redelivered.
        """
        key = self._claim_key(prompt_key, sample, policy_version, chunk)
        async with self._translated():
            if await self._redis.set(key, task, nx=True, ex=CLAIM_TTL_SECONDS):
                return True
            holder = await self._redis.get(key)
        return holder == task.encode()

    async def release_sample(
        self, prompt_key: str, sample: int, policy_version: int, task: str, *, chunk: int = 0
    ) -> None:
        """Give a claim back that came to nothing, so that another task may try."""
        key = self._claim_key(prompt_key, sample, policy_version, chunk)
        async with self._translated():
            await self._redis.eval(_RELEASE, 1, key, task)

    def _claim_key(self, prompt_key: str, sample: int, policy_version: int, chunk: int) -> str:
        return f"{self._prefix}claim:{prompt_key}:{sample}:{policy_version}:{chunk}"

    async def put_unfinished(self, unfinished: UnfinishedSample) -> None:
        """Keep what a sample has so far, for `PARTIAL_TTL_SECONDS` after the last such call of its
        policy version.
        """
        key = self._unfinished_key(unfinished.policy_version)
        field = f"{unfinished.prompt_key}:{unfinished.sample}"
        async with self._translated():
            pipe = self._redis.pipeline(transaction=True)
            pipe.hset(key, field, msgspec.msgpack.encode(unfinished))
            pipe.expire(key, PARTIAL_TTL_SECONDS)
            await pipe.execute()

    async def unfinished(
        self, prompt_key: str, sample: int, policy_version: int
    ) -> UnfinishedSample | None:
        """What a sample has so far, or None: not begun, finished or forgotten."""
        async with self._translated():
            data = await self._redis.hget(
                self._unfinished_key(policy_version), f"{prompt_key}:{sample}"
            )
        return None if data is None else self._decoded(data, UnfinishedSample)

    async def all_unfinished(self, policy_version: int) -> list[UnfinishedSample]:
        """Every unfinished sample of these weights, in no order."""
        async with self._translated():
            found = await self._redis.hgetall(self._unfinished_key(policy_version))
        return [self._decoded(data, UnfinishedSample) for data in found.values()]

    async def drop_unfinished(self, prompt_key: str, sample: int, policy_version: int) -> None:
        """The sample has reached its end."""
        async with self._translated():
            await self._redis.hdel(self._unfinished_key(policy_version), f"{prompt_key}:{sample}")

    def _unfinished_key(self, policy_version: int) -> str:
        return f"{self._prefix}unfinished:{policy_version}"

    async def record_outcome(self, outcome: RunaheadOutcome) -> None:
        """Add one chunk to the job's totals."""
        key = self._prefix + "outcomes"
        async with self._translated():
            pipe = self._redis.pipeline(transaction=True)
            pipe.hincrby(key, outcome.result, 1)
            pipe.hincrby(key, "num_tokens", outcome.num_tokens)
            pipe.hincrby(key, "num_finished", int(outcome.is_finished))
            if outcome.abort_seconds is not None:
                pipe.rpush(self._prefix + "abort_seconds", repr(outcome.abort_seconds))
                pipe.ltrim(self._prefix + "abort_seconds", -MAX_ABORT_SECONDS, -1)
            await pipe.execute()

    async def outcomes(self) -> RunaheadTotals:
        """Totals over all chunks of the job so far."""
        async with self._translated():
            pipe = self._redis.pipeline(transaction=True)
            pipe.hgetall(self._prefix + "outcomes")
            pipe.lrange(self._prefix + "abort_seconds", 0, -1)
            counts, seconds = await pipe.execute()
        totals = {name.decode(): int(count) for name, count in counts.items()}
        return RunaheadTotals(
            num_tokens=totals.pop("num_tokens", 0),
            num_finished=totals.pop("num_finished", 0),
            num_results=totals,
            abort_seconds=tuple(float(value) for value in seconds),
        )

    # -- dead letters
    async def bury(self, letter: bytes) -> None:
        """Keep a task that failed for good, among the newest `MAX_DEAD_LETTERS`."""
        async with self._translated():
            pipe = self._redis.pipeline(transaction=True)
            pipe.lpush(self._prefix + "dead_letters", letter)
            pipe.ltrim(self._prefix + "dead_letters", 0, MAX_DEAD_LETTERS - 1)
            await pipe.execute()

    async def dead_letters(self) -> list[bytes]:
        """Newest first."""
        async with self._translated():
            letters = await self._redis.lrange(self._prefix + "dead_letters", 0, -1)
        return cast(list[bytes], letters)

    async def forget_job(self) -> None:
        """Delete every key of the job that has no time to live."""
        names = ("phase", "window", "epoch", "dead_letters", "outcomes", "abort_seconds")
        async with self._translated():
            await self._redis.delete(*(self._prefix + name for name in names))

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""
        await self._redis.aclose()


class ShardLease:
    """Ownership of one shard of a cache: at most one holder, with an epoch that only grows."""

    def __init__(self, redis: Redis, *, cache: str, shard: int, holder: str) -> None:
        self._redis = redis
        self._key = f"srt:{{{cache}:{shard}}}:owner"
        self._holder = holder
        self._value = b""
        self.epoch = 0

    async def acquire(self) -> bool:
        """Take the lease when nobody holds it. Raises CoordinationUnavailable."""
        async with _translated(self._key):
            epoch = int(await self._redis.incr(self._key + "_epoch"))
            value = f"{self._holder}:{epoch}".encode()
            taken = await self._redis.set(
                self._key, value, nx=True, px=int(LEASE_TTL_SECONDS * 1000)
            )
        if taken:
            self._value, self.epoch = value, epoch
        return bool(taken)

    async def renew(self) -> None:
        """Hold on for another `LEASE_TTL_SECONDS`.

        Raises:
            LeaseLost: it expired or somebody else holds it.
            CoordinationUnavailable: no answer; the lease may have gone.
        """
        async with _translated(self._key):
            held = await self._redis.eval(
                _RENEW, 1, self._key, self._value, str(int(LEASE_TTL_SECONDS * 1000))
            )
        if not held:
            raise LeaseLost(lease=self._key, epoch=self.epoch)

    async def release(self) -> None:
        """Give it up, if still held. Raises CoordinationUnavailable."""
        async with _translated(self._key):
            await self._redis.eval(_RELEASE, 1, self._key, self._value)


@asynccontextmanager
async def _translated(address: str) -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise CoordinationUnavailable(address=address, reason=str(error)) from error
