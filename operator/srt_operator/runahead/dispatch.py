"""Sends chunks to the run-ahead workers through Celery. The only user of Celery here.

* Blocking calls run in threads of their own: a broker that is away delays no decision by more than
  its time, and holds no thread that other work waits for.
* A chunk that cannot be sent is dropped: run-ahead is best effort.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Final, Protocol, TypeVar

from srt_common.errors import CoordinationUnavailable
from srt_common.messages.runahead import RunaheadJob
from srt_common.task_queue import broker_errors, make_app, queue_of, send_runahead

ANSWER_SECONDS: Final = 1.0
"""Workers that take longer to say what they consume count as away."""
NUM_THREADS: Final = 2
Result = TypeVar("Result")


class Dispatcher(Protocol):
    """Where chunks go."""

    async def send(self, jobs: Sequence[RunaheadJob]) -> int:
        """Queue chunks for their engines, in order; how many were queued."""
        ...

    async def num_queued(self, engine: str) -> int:
        """Chunks that no worker has taken yet.

        Raises:
            CoordinationUnavailable: the broker does not answer.
        """
        ...


class CeleryDispatcher:
    """Queues of one job on one broker."""

    def __init__(self, broker_url: str, *, job: str) -> None:
        self._app = make_app(broker_url)
        self._job = job
        self._asking = threading.Lock()
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="broker")

    async def send(self, jobs: Sequence[RunaheadJob]) -> int:
        """Queue chunks for their engines, in order; stops at the first that cannot be queued."""
        return await self._in_thread(self._send, jobs)

    async def num_queued(self, engine: str) -> int:
        """Chunks that no worker has taken yet. Raises CoordinationUnavailable."""
        return await self._in_thread(self._num_queued, queue_of(self._job, engine))

    async def served_engines(self, engines: Sequence[str]) -> frozenset[str]:
        """Engines whose queue a worker consumes; none when the broker does not answer."""
        return await self._in_thread(self._served_engines, engines)

    def _served_engines(self, engines: Sequence[str]) -> frozenset[str]:
        try:
            # Under a lock: answers to two questions at once would reach either one.
            with self._asking, broker_errors(self._app):
                consumed = self._app.control.inspect(timeout=ANSWER_SECONDS).active_queues() or {}
        except CoordinationUnavailable:
            return frozenset()
        queues = {queue["name"] for worker in consumed.values() for queue in worker}
        return frozenset(name for name in engines if queue_of(self._job, name) in queues)

    def _send(self, jobs: Sequence[RunaheadJob]) -> int:
        for number, job in enumerate(jobs):
            queue = queue_of(self._job, job.engine)
            try:
                send_runahead(self._app, job, queue=queue, expires_at_unix=job.deadline_at_unix)
            except CoordinationUnavailable:
                return number
        return len(jobs)

    def _num_queued(self, queue: str) -> int:
        """Asked by declaring it, which leaves a Redis queue as it is: kombu looks for a passively
        declared one without the key prefix and never finds it.
        """
        with broker_errors(self._app), self._app.connection_or_acquire() as connection:
            declared = connection.default_channel.queue_declare(queue=queue)
        return int(declared.message_count)

    async def forget(self, engines: Sequence[str]) -> None:
        """Delete the queues of engines and the job's own, with what waits in them, whoever sent it.
        Raises CoordinationUnavailable.
        """
        queues = [queue_of(self._job), *(queue_of(self._job, engine) for engine in engines)]
        await self._in_thread(self._forget, queues)

    def _forget(self, queues: Sequence[str]) -> None:
        with broker_errors(self._app), self._app.connection_or_acquire() as connection:
            for name in queues:
                # Declared with its exchange, as workers do: kombu deletes by what this process has
                # declared, and would leave what other processes have sent.
                queue = self._app.amqp.queues.new_missing(name)
                bound = queue.bind(connection.default_channel)
                bound.declare()
                bound.delete()

    async def close(self) -> None:
        """Let go of the broker."""
        await self._in_thread(self._app.close)
        self._threads.shutdown(wait=False)

    async def _in_thread(self, call: Callable[..., Result], *arguments: object) -> Result:
        """As `asyncio.to_thread` does, the current span included."""
        here = partial(copy_context().run, call, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, here)
