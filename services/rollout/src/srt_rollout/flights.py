"""Rollouts on their way through the engine: admission by lane, abort by id.

* An abort is asked for until the engine has answered: vLLM forgets one that overtakes its request.
  An engine that never answers is left by closing the connection, which aborts too.
* An aborted rollout is answered like any other, with the tokens so far and ``finish_reason`` abort.
* Only requests named here are ever aborted, by their own id; never all at once (an empty list
  would).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from srt_common.errors import EngineBusy, EngineError, EngineRefused
from srt_common.messages.rollouts import Lane
from srt_rollout.lanes import Lanes, Verdict

ABORT_TIMEOUT_SECONDS = 1.0
ABORT_INTERVAL_SECONDS = 0.1
MAX_ABORTS = 20
NO_TOKENS_ABORTED = (
    b'{"request_id":"","choices":[{"index":0,"token_ids":[],"finish_reason":"abort"}]}'
)
"""Answer of a rollout that the engine never gave one for."""


class DuplicateRequest(EngineRefused):
    """A request with this id is in flight. Use another id for another attempt."""


@dataclass(eq=False, slots=True)
class _Flight:
    call: asyncio.Task[bytes]
    is_aborting: bool = False
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class Flights:
    """The requests of one engine. Belongs to one event loop."""

    def __init__(
        self, lanes: Lanes, abort: Callable[[str], Awaitable[None]], *, engine: str
    ) -> None:
        self.lanes = lanes
        self._abort = abort
        self._engine = engine
        self._flights: dict[str, _Flight] = {}
        self._aborts: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_idle(self) -> None:
        """Return once nothing is in flight."""
        await self._idle.wait()

    async def fly(
        self, request_id: str, lane: Lane, call: Callable[[], Coroutine[Any, Any, bytes]]
    ) -> bytes:
        """Admit, let run-ahead go that is in the way, and wait for the engine's answer.

        Cancelling this closes the engine's connection.

        Raises:
            EngineBusy: no room for this lane.
            DuplicateRequest: the id is in flight already.
            EngineError: what ``call`` raises.
        """
        self._admit(request_id, lane)
        flight = _Flight(asyncio.create_task(call()))
        self._flights[request_id] = flight
        self._idle.clear()
        self.abort(self.lanes.evict())
        try:
            return await flight.call
        except asyncio.CancelledError:
            if flight.is_aborting and not _is_cancelling():
                return NO_TOKENS_ABORTED
            raise
        finally:
            flight.call.cancel()
            flight.answered.set()
            self._flights.pop(request_id)
            self.lanes.leave(request_id)
            if not self._flights:
                self._idle.set()

    def hang_up(self, request_id: str) -> None:
        """Close the engine's connection of a request that cannot be aborted by id."""
        if (flight := self._flights.get(request_id)) is not None:
            flight.is_aborting = True
            flight.call.cancel()

    def abort(self, request_ids: Sequence[str]) -> None:
        """Start aborting those of these requests that are in flight."""
        for request_id in request_ids:
            flight = self._flights.get(request_id)
            if flight is not None and not flight.is_aborting:
                flight.is_aborting = True
                self._start(self._abort_until_answered(request_id, flight))

    async def abort_and_wait(self, request_ids: Sequence[str]) -> None:
        """Abort, and return once the engine has answered all of them."""
        flights = [self._flights[name] for name in request_ids if name in self._flights]
        self.abort(request_ids)
        for flight in flights:
            await flight.answered.wait()

    def _admit(self, request_id: str, lane: Lane) -> None:
        verdict = self.lanes.enter(request_id, lane)
        if verdict is Verdict.BUSY:
            raise EngineBusy(engine=self._engine, reason=f"no room for lane {lane} now")
        if verdict is Verdict.DUPLICATE:
            raise DuplicateRequest(
                engine=self._engine, reason="a request with this request_id is in flight"
            )

    def _start(self, aborting: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(aborting)
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _abort_until_answered(self, request_id: str, flight: _Flight) -> None:
        for _ in range(MAX_ABORTS):
            try:
                async with asyncio.timeout(ABORT_TIMEOUT_SECONDS):
                    await self._abort(request_id)
                async with asyncio.timeout(ABORT_INTERVAL_SECONDS):
                    await flight.answered.wait()
            except TimeoutError:
                continue
            except EngineError:
                break
            return
        flight.call.cancel()


def _is_cancelling() -> bool:
    """True when the current task itself was cancelled, not what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
