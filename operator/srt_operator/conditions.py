"""Conditions merged the Kubernetes way. Pure.

* ``lastTransitionTime`` moves only when ``status`` changes.
* Order and unknown types are kept; a type appears once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from srt_operator.constants import ConditionType, Reason
from srt_operator.status import Condition, ConditionStatus

MAX_MESSAGE_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """What the reconciler concludes about one condition."""

    type: ConditionType
    holds: bool
    reason: Reason
    message: str = ""


def merge(
    previous: Sequence[Condition], findings: Iterable[Finding], *, now: float, generation: int
) -> tuple[Condition, ...]:
    """``previous`` brought up to date.

    Args:
        previous: at most one of each type.
        findings: at most one of each type; types without one stay as they are.
        now: seconds since the epoch.
        generation: of the spec that the findings are about.
    """
    merged = {condition.type: condition for condition in previous}
    for finding in findings:
        status: ConditionStatus = "True" if finding.holds else "False"
        before = merged.get(finding.type)
        if before is not None and before.status == status:
            since = before.last_transition_time
        else:
            since = rfc3339(now)
        merged[finding.type] = Condition(
            type=finding.type,
            status=status,
            reason=finding.reason,
            message=finding.message[:MAX_MESSAGE_CHARACTERS],
            lastTransitionTime=since,
            observedGeneration=generation,
        )
    return tuple(merged.values())


def is_true(conditions: Iterable[Condition], kind: ConditionType) -> bool:
    """Whether the condition is there and holds."""
    return any(c.type is kind and c.status == "True" for c in conditions)


def rfc3339(unix_seconds: float) -> str:
    """An instant as Kubernetes writes it, in whole seconds."""
    return datetime.fromtimestamp(int(unix_seconds), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
