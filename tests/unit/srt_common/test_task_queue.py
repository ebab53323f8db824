"""What may be put into Celery's queues: named queues, small JSON of keys and numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from celery import Celery

from srt_common.errors import CoordinationUnavailable, MessageError, MessageTooLarge
from srt_common.messages.runahead import RunaheadJob
from srt_common.task_queue import (
    checked_queue,
    decode_runahead,
    make_app,
    queue_of,
    send_runahead,
)

JOB = RunaheadJob(
    job="tiny-math",
    engine="engine-0",
    epoch=3,
    prompt_key="ab" * 16,
    sample=1,
    policy_version=4,
    chunk_tokens=32,
    deadline_at_unix=2000.5,
)


def test_queues_are_named_by_job_and_engine_and_never_clash() -> None:
    names = {queue_of("a"), queue_of("b"), queue_of("a", "engine-0"), queue_of("b", "engine-0")}
    assert len(names) == 4
    assert all(checked_queue(name) == name for name in names)
    assert queue_of("a", "engine-0").endswith(".engine-0")
    assert queue_of("a") == queue_of("a")


@pytest.mark.parametrize("name", ["srt.default", "srt.ra.xyz", "srt.ra.01234567.", "celery", ""])
def test_other_queues_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"allowed are srt\.ra"):
        send_runahead(make_app("memory://"), JOB, queue=name, expires_at_unix=2000.0)


@pytest.mark.parametrize("engine", ["Engine", "a.b", "", "x" * 64, "a\n"])
def test_engines_that_no_queue_can_carry_are_refused(engine: str) -> None:
    with pytest.raises(ValueError, match="queue is"):
        queue_of("job", engine)


def test_a_payload_beyond_the_limit_is_refused() -> None:
    large = msgspec.structs.replace(JOB, job="x" * 5000)
    with pytest.raises(MessageTooLarge):
        send_runahead(make_app("memory://"), large, queue=queue_of("x"), expires_at_unix=2000.0)


def test_a_job_survives_json() -> None:
    assert decode_runahead(msgspec.json.decode(msgspec.json.encode(JOB))) == JOB


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_key": "zz" * 16},
        {"prompt_key": "ab"},
        {"prompt_key": "AB" * 16},
        {"epoch": "3"},
        {"token_ids": [1, 2]},
        {"sample": -1},
        {"chunk": -1},
        {"chunk_tokens": 0},
        {"policy_version": -1},
    ],
)
def test_what_is_no_job_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        decode_runahead(msgspec.to_builtins(JOB) | change)


@pytest.mark.parametrize("payload", [None, [], "job", {"job": "only"}])
def test_what_is_no_object_of_ours_is_refused(payload: object) -> None:
    with pytest.raises(MessageError):
        decode_runahead(payload)


def test_only_json_is_accepted_and_tasks_are_acknowledged_late() -> None:
    conf = make_app("memory://").conf
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.broker_transport_options["unacked_restore_interval"] == 5
    assert conf.broker_transport_options["unacked_restore_throttle"] == 1


def test_a_broker_that_is_away_is_an_error_of_ours() -> None:
    app: Celery = make_app("redis://127.0.0.1:1/0")
    with pytest.raises(CoordinationUnavailable):
        send_runahead(app, JOB, queue=queue_of("job"), expires_at_unix=2000.0)
