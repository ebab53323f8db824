"""Engines that come, go and lose their weights while a job runs: who is given work, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from srt_common.errors import EngineUnavailable
from srt_common.keys import PromptKey
from srt_common.messages.rollouts import WeightUpdate
from srt_trainer import engine_pool
from srt_trainer.engine_pool import EnginePool
from support.scripted_engine import ScriptedEngine, unavailable

KEY = PromptKey(bytes(16))
MANY = 10_000


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_pool, "FIRST_BACKOFF_SECONDS", 0.0)


class Changing:
    """A source of engines that a test changes."""

    def __init__(self) -> None:
        self._sets: asyncio.Queue[Sequence[ScriptedEngine]] = asyncio.Queue()

    def give(self, *engines: ScriptedEngine) -> None:
        self._sets.put_nowait(engines)

    async def __aiter__(self) -> AsyncIterator[Sequence[ScriptedEngine]]:
        while True:
            yield await self._sets.get()


@asynccontextmanager
async def pool_of(source: Changing) -> AsyncIterator[EnginePool]:
    async with EnginePool(
        source,  # type: ignore[arg-type]
        max_in_flight=1,
        max_load_attempts=3,
    ) as pool:
        yield pool


def version(number: int) -> WeightUpdate:
    return WeightUpdate(url=f"http://trainer/v1/weights/{number}", policy_version=number)


async def engines_with_slots(pool: EnginePool, number: int) -> set[str]:
    """Names of engines that give a slot, each once; waits for that many."""
    names: set[str] = set()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        everybody_is_in = asyncio.Event()

        async def hold() -> None:
            async with pool.slot(KEY) as engine:
                names.add(engine.name)
                if len(names) == number:
                    everybody_is_in.set()
                await everybody_is_in.wait()

        for _ in range(number):
            group.create_task(hold())
    return names


async def settled() -> None:
    """Let everything that is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(happens: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await happens.wait()


async def test_publishing_waits_until_there_are_engines() -> None:
    source, engine = Changing(), ScriptedEngine("engine-0")
    async with pool_of(source) as pool:
        publishing = asyncio.create_task(pool.publish(version(0)))
        await asyncio.sleep(0)
        assert not publishing.done()
        source.give(engine)
        await publishing
        assert engine.weights_url == "http://trainer/v1/weights/0"


async def test_an_engine_that_comes_late_gets_the_current_weights_before_any_work() -> None:
    source, first, late = Changing(), ScriptedEngine("engine-0"), ScriptedEngine("engine-1")
    source.give(first)
    async with pool_of(source) as pool:
        await pool.publish(version(0))
        await pool.publish(version(1))
        source.give(first, late)
        assert await engines_with_slots(pool, 2) == {"engine-0", "engine-1"}
    assert late.loads == [version(1)]
    assert first.loads == [version(0), version(1)]


async def test_an_engine_with_another_jobs_weights_of_the_same_version_gets_ours() -> None:
    source, engine = Changing(), ScriptedEngine("engine-0")
    engine.policy_version, engine.weights_url = 3, "http://another-trainer/v1/weights/3"
    source.give(engine)
    async with pool_of(source) as pool:
        await pool.publish(version(3))
    assert engine.loads == [version(3)]


async def test_an_engine_that_is_gone_is_forgotten_and_known_again_when_it_returns() -> None:
    source, stays, leaves = Changing(), ScriptedEngine("engine-0"), ScriptedEngine("engine-1")
    source.give(stays, leaves)
    async with pool_of(source) as pool:
        await pool.publish(version(1))
        leaves.load_errors = [unavailable()]
        source.give(stays)
        await settled()
        assert not leaves.load_errors
        await pool.publish(version(2))
        assert [engine.policy_version for engine in (stays, leaves)] == [2, 1]
        source.give(stays, leaves)
        assert await engines_with_slots(pool, 2) == {"engine-0", "engine-1"}
    assert leaves.policy_version == 2


async def test_an_engine_that_is_named_no_longer_but_answers_goes_on() -> None:
    """A pod that is not ready has no address in its Service, and may need weights to be ready."""
    source, engine = Changing(), ScriptedEngine("engine-0")
    source.give(engine)
    async with pool_of(source) as pool:
        await pool.publish(version(1))
        engine.policy_version, engine.weights_url = -1, ""
        engine.loaded.clear()
        source.give()
        await until(engine.loaded)
        assert await engines_with_slots(pool, 1) == {"engine-0"}


async def test_an_engine_that_drains_and_is_named_no_longer_gets_no_work() -> None:
    source, stays, drains = Changing(), ScriptedEngine("engine-0"), ScriptedEngine("engine-1")
    source.give(stays, drains)
    async with pool_of(source) as pool:
        await pool.publish(version(1))
        drains.is_draining = True
        source.give(stays)
        await settled()
        await pool.publish(version(2))
        assert await engines_with_slots(pool, 1) == {"engine-0"}
    assert drains.policy_version == 1


async def test_an_engine_that_is_named_but_away_is_waited_for() -> None:
    """A pod that starts answers nobody for a while."""
    source, engine = Changing(), ScriptedEngine("engine-0")
    engine.load_errors = [unavailable()] * 20
    source.give(engine)
    async with pool_of(source) as pool:
        await pool.publish(version(1))
        await until(engine.loaded)
        assert await engines_with_slots(pool, 1) == {"engine-0"}


async def test_weights_that_cannot_be_fetched_stop_the_job_with_the_engines_sentence() -> None:
    source, engine = Changing(), ScriptedEngine("engine-0")
    engine.weight_errors = [EngineUnavailable(engine="engine-0", reason="its sha256 is wrong")] * 3
    source.give(engine)
    with pytest.raises(ExceptionGroup) as caught:
        async with pool_of(source) as pool:
            await pool.publish(version(1))
            await engines_with_slots(pool, 1)
    assert caught.group_contains(EngineUnavailable, match="its sha256 is wrong")
