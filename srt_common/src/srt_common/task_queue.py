"""Celery for run-ahead chunks: one app factory, queue names, and the one message that is sent.

* JSON only, both ways; any other content type is refused and the worker stays up.
* At least once: a task is acknowledged when it has ended; one that a killed worker held comes back
  after the visibility timeout, so it must be harmless twice (`Coordination.claim_sample`).
* Arguments are keys and numbers, below `MAX_PAYLOAD_BYTES`; prompt text never travels here.
* A broker that does not answer is `CoordinationUnavailable`.

Settings: reference platform 3.4, measured there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import msgspec
from celery import Celery
from kombu.exceptions import OperationalError

from srt_common.errors import CoordinationUnavailable, MessageError, MessageTooLarge
from srt_common.messages.runahead import RUNAHEAD_TASK, RunaheadJob
from srt_common.telemetry.propagation import inject

MAX_PAYLOAD_BYTES: Final = 4096
VISIBILITY_TIMEOUT_SECONDS: Final = 60
"""At least four times the longest chunk."""

_QUEUE = re.compile(r"srt\.ra\.[0-9a-f]{8}(\.[a-z0-9-]{1,63})?\Z")


def queue_of(job: str, engine: str | None = None) -> str:
    """The queue of a job's chunks for any of its engines, or for one of them.

    Raises:
        ValueError: an engine name that no queue can carry.
    """
    digest = hashlib.blake2b(job.encode(), digest_size=4, person=b"srt-queue").hexdigest()
    return checked_queue(f"srt.ra.{digest}" if engine is None else f"srt.ra.{digest}.{engine}")


def checked_queue(name: str) -> str:
    """The name itself. Raises ValueError for one that is not a run-ahead queue."""
    if not _QUEUE.match(name):
        raise ValueError(
            f"queue is {name!r}; allowed are srt.ra.<8 hex digits> and, after a dot, an engine of "
            "1 to 63 lower-case letters, digits and dashes"
        )
    return name


def make_app(
    broker_url: str, *, visibility_timeout_seconds: float = VISIBILITY_TIMEOUT_SECONDS
) -> Celery:
    """An app for one broker: ``redis[s]://`` or ``redis+socket://``. Connects when it is used."""
    app = Celery("srt", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure_or_timeout=True,
        worker_prefetch_multiplier=1,
        task_default_queue="srt.default",
        task_create_missing_queues=True,
        worker_enable_remote_control=True,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_soft_shutdown_timeout=5,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_limit=2,
        broker_transport_options={
            "visibility_timeout": visibility_timeout_seconds,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "global_keyprefix": "srt:celery:",
            "priority_steps": [0, 3, 6, 9],
        },
    )
    return app


@contextmanager
def broker_errors(app: Celery) -> Iterator[None]:
    """Whatever the broker's client raises inside the block, as CoordinationUnavailable.

    Kombu translates what happens while it connects; a server that goes away later, refuses or is
    full raises errors of its own client.
    """
    try:
        yield
    except _errors_of(app) as error:
        raise CoordinationUnavailable(address="the task queue", reason=str(error)) from error


def _errors_of(app: Celery) -> tuple[type[Exception], ...]:
    connection = app.connection_for_write()  # not opened
    return (
        OperationalError,
        OSError,
        *connection.connection_errors,
        *connection.channel_errors,
    )


def send_runahead(app: Celery, job: RunaheadJob, *, queue: str, expires_at_unix: float) -> str:
    """Queue one chunk; its task id. Blocks for some seconds at most.

    The current span's context travels in the headers, never in the arguments.

    Args:
        app: from `make_app`.
        job: what to do.
        queue: from `queue_of`.
        expires_at_unix: workers drop the task unstarted after this instant.

    Raises:
        ValueError: not a run-ahead queue. MessageTooLarge: more than `MAX_PAYLOAD_BYTES`.
        CoordinationUnavailable: no answer from the broker; the task may have been queued all the
        same.
    """
    payload = msgspec.json.encode(job)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageTooLarge(
            channel=queue, reason=f"task of {len(payload)} bytes; allowed are {MAX_PAYLOAD_BYTES}"
        )
    headers: dict[str, str] = {}
    inject(headers)
    with broker_errors(app):
        sent = app.send_task(
            RUNAHEAD_TASK,
            args=[msgspec.to_builtins(job)],
            queue=checked_queue(queue),
            expires=datetime.fromtimestamp(expires_at_unix, UTC),
            headers=headers,
            retry=True,
            retry_policy={"max_retries": 2, "interval_start": 0, "interval_max": 0.5},
        )
    return str(sent.id)


def decode_runahead(payload: object) -> RunaheadJob:
    """The job of a task's argument. Raises MessageError."""
    try:
        return msgspec.convert(payload, RunaheadJob)
    except msgspec.ValidationError as error:
        raise MessageError(channel=RUNAHEAD_TASK, reason=str(error)) from error
