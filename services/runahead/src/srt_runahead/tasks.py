"""The Celery task: decode, run, report. Never retried by Celery: a missed bubble is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from celery import Celery, Task

from srt_common.errors import MessageError
from srt_common.messages.runahead import RUNAHEAD_TASK, RunaheadJob, RunaheadOutcome
from srt_common.task_queue import decode_runahead
from srt_common.telemetry.propagation import TRACEPARENT

_LOG = logging.getLogger(__name__)

Run = Callable[[RunaheadJob, str, str | None], RunaheadOutcome]
"""Job, task id and ``traceparent`` in, outcome out; called from a pool thread."""


def register(app: Celery, run: Run) -> None:
    """Give ``app`` the one task this worker knows."""

    @app.task(name=RUNAHEAD_TASK, bind=True, max_retries=0)
    def runahead_generate(self: Task, payload: object) -> dict[str, object] | None:
        try:
            job = decode_runahead(payload)
        except MessageError as error:
            _LOG.warning("task refused", extra={"error_type": type(error).__name__})
            return None
        traceparent = (self.request.headers or {}).get(TRACEPARENT)
        outcome = run(job, self.request.id, traceparent)
        return dict(msgspec.to_builtins(outcome))
