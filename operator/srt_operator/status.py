"""What is observed of a job: conditions, processes, progress. The status half of the resource."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from srt_operator.constants import ConditionType, Phase, Reason
from srt_operator.resources import Part

ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(Part):
    """One of Kubernetes' standard conditions."""

    type: ConditionType
    """Unique among a job's conditions."""
    status: ConditionStatus
    """Whether it holds."""
    reason: Reason
    """Why, for programs."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why, for people."""
    last_transition_time: str
    """RFC 3339; when ``status`` last changed."""
    observed_generation: int = 1
    """The spec's generation that this was decided from."""


class ProcessReport(Part):
    """One process as ``srt get`` shows it."""

    name: str
    """For instance ``rollout-0``."""
    state: str
    """``Starting``, ``Ready``, ``Stopping``, ``Exited`` or ``Absent``."""
    restarts: int = 0
    """Times it was started again."""
    exit_code: int | None = None
    """Of its last end."""


class Progress(Part):
    """How far the trainer is."""

    step: int = 0
    """Finished optimizer steps."""
    steps: int = 0
    """Asked for."""


class SRTJobStatus(Part):
    """Written by the operator only."""

    observed_generation: int = 1
    """Of the spec that was last acted on."""
    phase: Phase = Phase.PENDING
    """For people."""
    conditions: tuple[Condition, ...] = ()
    """For programs; at most one of each type."""
    processes: tuple[ProcessReport, ...] = ()
    """In the order they start."""
    progress: Progress = Progress()
    """Steps."""
