"""The tree cache as a process on a real server: it follows, compacts, answers, ends and comes back.

Covers start to ready, traces that go on in it, SIGTERM within its time, SIGKILL with a restart that
is the same again, a server that goes away, and two replicas sharing the shards.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from srt_common.keys import PromptKey
from srt_common.messages.tree_updates import TokensUsed
from srt_common.store.redis_log import RedisLogStore
from srt_common.telemetry import names
from srt_common.telemetry.propagation import inject
from srt_common.telemetry.span_file import read_folder
from support.otel import RecordedTelemetry
from support.redis_server import RedisServer
from support.replicas import appended, new_forest, prompt

pytestmark = [pytest.mark.processes, pytest.mark.timeout(90)]

CACHE = "tests"
NUM_SHARDS = 4
TOKEN = "a-token-of-tests"


class CacheProcess:
    """One replica and a client of it."""

    def __init__(self, folder: Path, url: str, instance: str, **settings: str) -> None:
        token_file = folder / "token"
        token_file.write_text(TOKEN)
        self.port = _free_port()
        self._environment = os.environ | {
            "SRT_TREE_CACHE_REDIS_URL": url,
            "SRT_TREE_CACHE_CACHE_ID": CACHE,
            "SRT_TREE_CACHE_NUM_SHARDS": str(NUM_SHARDS),
            "SRT_TREE_CACHE_TOKEN_FILE": str(token_file),
            "SRT_TREE_CACHE_PORT": str(self.port),
            "SRT_TREE_CACHE_INSTANCE": instance,
            "SRT_TREE_CACHE_REDIS_TIMEOUT_SECONDS": "0.5",
            "SRT_TREE_CACHE_SNAPSHOT_INTERVAL_SECONDS": "1",
            "SRT_TREE_CACHE_LOG_RETENTION_SECONDS": "0",
            "SRT_TELEMETRY_DIR": str(folder / "telemetry"),
            **{f"SRT_TREE_CACHE_{name.upper()}": value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=5.0,
            trust_env=False,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The process, ready; ended by its handle."""
        self.start()
        try:
            await until(self._is_ready)
            yield
        finally:
            self.kill()
            await self.client.aclose()

    def start(self) -> None:
        command = [sys.executable, "-m", "srt_tree_cache"]
        self._process = subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; returns exit status and seconds until the end."""
        assert self._process is not None
        started = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(timeout=20)
        return status, time.monotonic() - started

    async def restart(self) -> None:
        """SIGKILL, then a new one of the same name."""
        self.kill()
        self.start()
        await until(self._is_ready)

    async def stats(self) -> dict[str, object]:
        answer = await self.client.get("/v1/stats")
        stats: dict[str, object] = answer.raise_for_status().json()
        return stats

    async def image(self, key: PromptKey) -> bytes | None:
        answer = await self.client.get(f"/v1/prompts/{key.hex()}/snapshot")
        return answer.content if answer.status_code == 200 else None

    async def _is_ready(self) -> bool:
        try:
            return (await self.client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds; the test's time limit ends it otherwise."""
    while not await condition():  # noqa: ASYNC110 - another process sets no event
        await asyncio.sleep(0.05)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer.started() as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisLogStore]:
    store = RedisLogStore.from_url(server.url, cache=CACHE, num_shards=NUM_SHARDS)
    yield store
    await store.close()


@pytest.fixture
async def replica(server: RedisServer, tmp_path: Path) -> AsyncIterator[CacheProcess]:
    process = CacheProcess(tmp_path, server.url, "replica-0")
    async with process.running():
        yield process


KEYS = [prompt(number) for number in range(12)]


async def fill(store: RedisLogStore, *, offset: int = 0) -> None:
    for key in KEYS:
        await store.append([appended(key, [5, 6, 7, key[-1]], offset=offset)])


async def has_tokens(replica: CacheProcess, num_tokens: int) -> bool:
    return (await replica.stats())["num_tokens"] == num_tokens


async def is_compacted(store: RedisLogStore) -> bool:
    return await store.floors() == await store.heads()


def images_of_log(updates_per_key: int) -> dict[PromptKey, bytes | None]:
    """What a forest holds that saw the same appends in one piece."""
    forest = new_forest()
    for key in KEYS:
        for part in range(updates_per_key):
            update = appended(key, [5, 6, 7, key[-1]], offset=4 * part)
            forest.extend(
                key,
                update.sequence_id,
                update.offset,
                policy_version=update.policy_version,
                lane=update.lane,
                engine_id=update.engine_id,
                flags=update.flags,
                tokens=update.tokens,
                soft=update.soft,
            )
    return {key: forest.snapshot(key) for key in KEYS}


async def images_of(replica: CacheProcess) -> dict[PromptKey, bytes | None]:
    return {key: await replica.image(key) for key in KEYS}


async def test_it_follows_the_log_and_moves_it_into_snapshots(
    replica: CacheProcess, store: RedisLogStore
) -> None:
    await fill(store)
    await store.append([appended(prompt(0), [9], sequence_id=2, lane=1)])
    await store.append([TokensUsed(prompt(0), 2, [0])])
    await until(lambda: has_tokens(replica, 4 * len(KEYS) + 1))
    await until(lambda: is_compacted(store))
    stats = await replica.stats()
    assert stats["owned_shards"] == list(range(NUM_SHARDS))
    assert (stats["num_run_ahead_tokens"], stats["num_run_ahead_tokens_used"]) == (1, 1)
    keys = [key for shard in range(NUM_SHARDS) for key in await store.snapshot_keys(shard)]
    assert sorted(keys) == KEYS


async def test_sigterm_saves_what_is_owned_and_gives_it_up_in_time(
    server: RedisServer, store: RedisLogStore, tmp_path: Path
) -> None:
    settings = {"snapshot_interval_seconds": "600"}
    process = CacheProcess(tmp_path, server.url, "replica-0", **settings)
    async with process.running():
        await fill(store)
        await until(lambda: has_tokens(process, 4 * len(KEYS)))
        status, seconds = process.terminate()
    assert (status, seconds < 5.0) == (0, True)
    assert await is_compacted(store)
    successor = CacheProcess(tmp_path, server.url, "replica-1")
    async with successor.running():
        assert await images_of(successor) == images_of_log(1)

        async def owns_all() -> bool:
            return (await successor.stats())["owned_shards"] == list(range(NUM_SHARDS))

        started = time.monotonic()
        await until(owns_all)
        assert time.monotonic() - started < 5.0


async def test_a_killed_replica_is_the_same_again_from_snapshots_and_log(
    replica: CacheProcess, store: RedisLogStore
) -> None:
    await fill(store)
    await until(lambda: is_compacted(store))
    await fill(store, offset=4)
    await until(lambda: has_tokens(replica, 8 * len(KEYS)))
    await replica.restart()
    assert await images_of(replica) == images_of_log(2)


async def test_without_the_server_it_serves_on_and_catches_up_afterwards(
    replica: CacheProcess, store: RedisLogStore, server: RedisServer
) -> None:
    await fill(store)
    await until(lambda: has_tokens(replica, 4 * len(KEYS)))
    server.stop()

    async def has_noticed() -> bool:
        return int(str((await replica.stats())["num_unavailable"])) > 0

    await until(has_noticed)
    assert await images_of(replica) == images_of_log(1)
    assert (await replica.client.get("/readyz")).status_code == 200
    answer = await replica.client.delete(f"/v1/prompts/{KEYS[0].hex()}")
    assert answer.json()["type"] == "TreeStoreUnavailable"
    server.start()
    await fill(store, offset=4)
    await until(lambda: has_tokens(replica, 8 * len(KEYS)))
    assert await images_of(replica) == images_of_log(2)


async def test_sigterm_without_the_server_still_ends_in_time(
    replica: CacheProcess, server: RedisServer
) -> None:
    server.freeze()
    status, seconds = replica.terminate()
    assert (status, seconds < 5.0) == (0, True)


async def test_a_wiped_server_is_no_error(
    replica: CacheProcess, store: RedisLogStore, server: RedisServer
) -> None:
    await fill(store)
    await until(lambda: has_tokens(replica, 4 * len(KEYS)))
    server.stop()
    server.start()
    await fill(store, offset=4)
    await until(lambda: has_tokens(replica, 8 * len(KEYS)))


async def test_the_caller_s_trace_goes_on_in_the_cache(
    replica: CacheProcess, store: RedisLogStore, tmp_path: Path
) -> None:
    await fill(store)
    await until(lambda: has_tokens(replica, 4 * len(KEYS)))
    headers: dict[str, str] = {}
    with RecordedTelemetry().tracer.start_as_current_span("gateway.generate") as caller:
        inject(headers)
    path = f"/v1/prompts/{KEYS[0].hex()}/prefetch"
    answer = await replica.client.post(path, headers=headers)
    assert answer.json() == {"result": "hit"}
    replica.terminate()
    [span] = [s for s in read_folder(tmp_path / "telemetry") if s.name == names.SPAN_CACHE_PREFETCH]
    assert span.trace_id == f"{caller.get_span_context().trace_id:032x}"
    assert span.parent_span_id == f"{caller.get_span_context().span_id:016x}"
    assert span.attributes[names.ATTR_PROMPT_KEY] == KEYS[0].hex()
    assert (span.service, span.instance) == ("srt-tree-cache", "replica-0")


async def test_removed_prompts_leave_no_key_of_theirs_on_the_server(
    replica: CacheProcess, store: RedisLogStore
) -> None:
    await fill(store)
    await until(lambda: is_compacted(store))
    for key in KEYS:
        assert (await replica.client.delete(f"/v1/prompts/{key.hex()}")).status_code == 204
    assert (await replica.stats())["num_prompts"] == 0
    assert [await store.snapshot_keys(shard) for shard in range(NUM_SHARDS)] == [[]] * NUM_SHARDS


async def test_memory_stays_within_its_limit(
    server: RedisServer, store: RedisLogStore, tmp_path: Path
) -> None:
    limit = 2**21
    settings = {"memory_limit_bytes": str(limit), "protect_seconds": "0"}
    process = CacheProcess(tmp_path, server.url, "replica-0", **settings)
    async with process.running():
        for number in range(100):
            await store.append([appended(prompt(number), list(range(1000)))])

        async def has_evicted() -> bool:
            stats = await process.stats()
            return (
                int(str(stats["num_evicted_prompts"])) > 0
                and int(str(stats["memory_bytes"])) <= limit
            )

        await until(has_evicted)


async def test_two_replicas_share_the_shards_and_one_takes_over_from_the_other(
    replica: CacheProcess, store: RedisLogStore, server: RedisServer, tmp_path: Path
) -> None:
    second = CacheProcess(tmp_path, server.url, "replica-1")
    async with second.running():
        await fill(store)
        for process in (replica, second):
            await until(lambda process=process: has_tokens(process, 4 * len(KEYS)))  # type: ignore[misc]
        owned = [(await process.stats())["owned_shards"] for process in (replica, second)]
        assert owned == [list(range(NUM_SHARDS)), []]
        assert await images_of(replica) == await images_of(second)
        replica.kill()

        async def has_taken_over() -> bool:
            return (await second.stats())["owned_shards"] == list(range(NUM_SHARDS))

        await until(has_taken_over)
        await fill(store, offset=4)
        await until(lambda: has_tokens(second, 8 * len(KEYS)))
        await until(lambda: is_compacted(store))


def test_wrong_settings_are_all_named_and_nothing_is_started(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "srt_tree_cache"],
        env={"SRT_TREE_CACHE_PORT": "x", "SRT_TREE_CACHE_REDIS_URI": "redis://"},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert process.returncode == 2
    lines = process.stderr.decode().splitlines()
    assert [line.split()[0] for line in lines] == [
        "SRT_TREE_CACHE_REDIS_URI",
        "SRT_TREE_CACHE_REDIS_URL",
        "SRT_TREE_CACHE_CACHE_ID",
        "SRT_TREE_CACHE_PORT",
        "SRT_TREE_CACHE_TOKEN_FILE",
    ]
