"""The engines of a job: which of them have the current weights, and who samples on which.

An engine is *ready* when its own report says that it has the weights the pool was last given.

    not ready --(/load: right version, or weights loaded)--> ready --(any trouble)--> not ready

* Work goes to ready engines only; one keeper task per engine brings it (back) to ready, with
  back-off.
* An engine that restarted or came late has other weights; its keeper loads the current ones before
  it is used.
* An engine that its source names no longer is let go once it does not answer either: a name may
  vanish before the engine does, and an engine without weights needs its keeper to get some.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from srt_common.errors import EngineUnavailable
from srt_common.keys import PromptKey
from srt_common.messages.rollouts import WeightUpdate
from srt_trainer.engine_choice import EngineSlots, next_assignment
from srt_trainer.engine_client import EngineClient

FIRST_BACKOFF_SECONDS: Final = 0.1
MAX_BACKOFF_SECONDS: Final = 5.0

_LOGGER = logging.getLogger(__name__)


class EnginePool:
    """Hands out slots on ready engines. Belongs to one event loop; use as a context manager."""

    def __init__(
        self,
        source: AsyncIterable[Sequence[EngineClient]],
        *,
        max_in_flight: int,
        max_load_attempts: int,
    ) -> None:
        """``source`` gives all engines there are, and again whenever that may have changed."""
        self._source = source
        self._max_in_flight = max_in_flight
        self._max_load_attempts = max_load_attempts
        self._engines: dict[str, _Engine] = {}
        """By URL."""
        self._target: WeightUpdate | None = None
        self._are_known = asyncio.Event()
        self._waiting: dict[PromptKey, deque[asyncio.Future[_Engine]]] = {}
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> EnginePool:
        await self._group.__aenter__()
        self._start(self._follow(), "follows the engines")
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(*error)  # type: ignore[arg-type]

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self) -> None:
        async for clients in self._source:
            self._use(clients)
            self._are_known.set()

    def _use(self, clients: Sequence[EngineClient]) -> None:
        """Let newcomers in, and have those that are not named any more looked at."""
        for client in clients:
            if client.url not in self._engines:
                engine = _Engine(client, self._max_load_attempts, self._hand_out)
                self._engines[client.url] = engine
                self._start(self._keep(engine), f"keeper of {client.url}")
        urls = {client.url for client in clients}
        for url, engine in self._engines.items():
            engine.set_listed(url in urls)

    async def _keep(self, engine: _Engine) -> None:
        if self._target is not None:
            engine.aim_for(self._target)
        await engine.keep_ready()
        _LOGGER.info("engine is gone", extra={"engine": engine.client.name})
        del self._engines[engine.client.url]
        self._hand_out()

    @property
    def num_pending(self) -> int:
        """Rollouts that wait for a slot."""
        return sum(len(futures) for futures in self._waiting.values())

    async def publish(self, update: WeightUpdate) -> None:
        """Give every engine these weights, and those that come later.

        Returns when each engine has them or has failed at least once; the latter are tried again in
        the background and get no work before they have them. Waits until engines are known.
        """
        self._target = update
        await self._are_known.wait()
        engines = list(self._engines.values())
        for engine in engines:
            engine.aim_for(update)
        for engine in engines:
            await engine.wait_settled()

    @asynccontextmanager
    async def slot(self, key: PromptKey) -> AsyncIterator[EngineClient]:
        """A place on an engine, as soon as there is one.

        `EngineUnavailable` raised inside also takes the engine out of use until it is ready again.
        """
        engine = await self._acquire(key)
        try:
            yield engine.client
        except EngineUnavailable as error:
            engine.doubt(error)
            raise
        finally:
            engine.num_in_flight -= 1
            self._hand_out()

    async def _acquire(self, key: PromptKey) -> _Engine:
        future: asyncio.Future[_Engine] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(future)
        self._hand_out()
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled():
                future.result().num_in_flight -= 1
                self._hand_out()
            elif future in self._waiting.get(key, ()):
                self._forget(key, future)
            raise

    def _forget(self, key: PromptKey, future: asyncio.Future[_Engine]) -> None:
        self._waiting[key].remove(future)
        if not self._waiting[key]:
            del self._waiting[key]

    def _hand_out(self) -> None:
        """Give slots to waiting rollouts as long as there are both."""
        while assignment := next_assignment(
            list(self._waiting),
            [engine.slots() for engine in self._engines.values() if engine.is_ready],
            num_waiting=self.num_pending,
            max_in_flight=self._max_in_flight,
        ):
            key, url = assignment
            engine, future = self._engines[url], self._waiting[key][0]
            self._forget(key, future)
            if not future.done():
                engine.num_in_flight += 1
                future.set_result(engine)


class _Engine:
    """One engine and what keeps it ready."""

    def __init__(
        self, client: EngineClient, max_load_attempts: int, on_ready: Callable[[], None]
    ) -> None:
        self.client = client
        self.num_in_flight = 0
        self.is_ready = False
        self._is_listed = True
        self._target: WeightUpdate | None = None
        self._has_work = asyncio.Event()
        self._settled = asyncio.Event()
        self._max_load_attempts = max_load_attempts
        self._on_ready = on_ready

    def slots(self) -> EngineSlots:
        return EngineSlots(self.client.url, self.num_in_flight)

    def aim_for(self, target: WeightUpdate) -> None:
        """Want these weights."""
        self._target, self.is_ready = target, False
        self._settled.clear()
        self._has_work.set()

    async def wait_settled(self) -> None:
        """Return once the weights were loaded or could not be."""
        await self._settled.wait()

    def set_listed(self, is_listed: bool) -> None:
        """Whether the source names the engine; look after one that it names no longer."""
        if self._is_listed and not is_listed:
            self._has_work.set()
        self._is_listed = is_listed

    def doubt(self, error: EngineUnavailable) -> None:
        """Have the keeper look before the engine is used again."""
        if self.is_ready:
            extra = {"engine": error.engine, "reason": error.reason}
            _LOGGER.warning("engine is in doubt", extra=extra)
        self.is_ready = False
        self._has_work.set()

    async def keep_ready(self) -> None:
        """Run until the engine is gone. Raises what it says is wrong for good."""
        num_failures, num_failed_loads = 0, 0
        while True:
            await self._has_work.wait()
            try:
                await self._become_ready()
            except EngineUnavailable as error:
                num_failures += 1
                num_failed_loads = num_failed_loads + 1 if isinstance(error, _LoadFailed) else 0
                if num_failed_loads >= self._max_load_attempts:
                    raise
                self.is_ready = False
                self._settled.set()
                if not self._is_listed and num_failed_loads == 0:
                    return
                await self._wait_after(num_failures, error)
            else:
                num_failures, num_failed_loads = 0, 0

    async def _wait_after(self, num_failures: int, error: EngineUnavailable) -> None:
        if num_failures == 1:
            extra = {"engine": error.engine, "reason": error.reason}
            _LOGGER.warning("engine is not ready", extra=extra)
        backoff_seconds = FIRST_BACKOFF_SECONDS * 2.0 ** (num_failures - 1)
        await asyncio.sleep(min(backoff_seconds, MAX_BACKOFF_SECONDS))

    async def _become_ready(self) -> None:
        """Compare the engine's weights with the target and load them where they differ."""
        target = self._target
        if target is None:
            self._has_work.clear()
            return
        load = await self.client.load()
        if load.is_draining:
            raise EngineUnavailable(engine=self.client.name, reason="it is draining")
        if (load.policy_version, load.weights_url) != (target.policy_version, target.url):
            try:
                await self.client.update_weights(target)
            except EngineUnavailable as error:
                raise _LoadFailed(engine=error.engine, reason=error.reason) from error
        if target is not self._target:
            return
        self.is_ready = True
        self._has_work.clear()
        self._settled.set()
        self._on_ready()


class _LoadFailed(EngineUnavailable):
    """An engine that answers could not load weights."""
