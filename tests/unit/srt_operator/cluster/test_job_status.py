"""What is said of a job that cannot be acted on."""

from __future__ import annotations

from typing import Any

import pytest

from srt_operator.cluster import job_status
from srt_operator.cluster.jobs import _stop_of
from srt_operator.cluster.resolution import Refused
from srt_operator.conditions import is_true
from srt_operator.constants import ConditionType, Phase, Reason
from srt_operator.status import SRTJobStatus

NOW = 1_700_000_000.0
WAITS = Refused(Reason.POOL_IN_USE, "another job's", missing=ConditionType.ROLLOUT_READY)


def job(last: SRTJobStatus | None = None, **spec: Any) -> dict[str, Any]:
    status = {} if last is None else last.model_dump(mode="json", by_alias=True)
    return {"metadata": {"name": "sums", "generation": 1}, "spec": spec, "status": status}


def said(manifest: dict[str, Any]) -> SRTJobStatus:
    return job_status.refused(manifest, WAITS, _stop_of(manifest, NOW), now=NOW)


def test_a_job_that_waits_is_pending() -> None:
    status = said(job())
    assert (status.phase, status.completion_time) == (Phase.PENDING, None)
    assert not any(c.type is ConditionType.SUSPENDED for c in status.conditions)


@pytest.mark.parametrize("reason", [Reason.CANCELLED, Reason.DEADLINE_EXCEEDED])
def test_a_job_that_waits_can_be_ended(reason: Reason) -> None:
    manifest = job()
    if reason is Reason.CANCELLED:
        manifest["metadata"]["annotations"] = {"srt-rl.dev/cancelled": "true"}
    else:
        manifest["spec"]["activeDeadlineSeconds"] = 5
        manifest["status"]["startTime"] = "2023-11-14T22:13:00Z"
    status = said(manifest)
    assert status.phase is Phase.FAILED
    assert status.completion_time == "2023-11-14T22:13:20Z"
    (failed,) = (c for c in status.conditions if c.type is ConditionType.FAILED)
    assert (failed.status, failed.reason) == ("True", reason)


def test_a_job_that_waits_can_be_suspended_and_resumed() -> None:
    suspended = said(job(suspend=True))
    assert suspended.phase is Phase.SUSPENDED
    assert is_true(suspended.conditions, ConditionType.SUSPENDED)
    resumed = said(job(suspended))
    assert resumed.phase is Phase.PENDING
    assert not is_true(resumed.conditions, ConditionType.SUSPENDED)
