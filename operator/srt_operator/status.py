"""What is observed of a job: conditions, processes, progress. The status half of the resource."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from srt_operator.constants import ConditionType, Phase, Reason
from srt_operator.resource_parts import ListKey, Part

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
    display: Annotated[str, Field(max_length=64)] = ""
    """Both, for people."""


class RolloutReport(Part):
    """The engines of a job."""

    pool_name: Annotated[str, Field(max_length=63)] = ""
    """The RolloutPool they belong to."""
    desired: int = 0
    """Engines asked for."""
    ready: int = 0
    """Engines that serve."""
    display: Annotated[str, Field(max_length=64)] = ""
    """Both, for people."""


class CacheReport(Part):
    """The shared trees of a job."""

    cache_name: Annotated[str, Field(max_length=63)] = ""
    """The TreeCache they lie in."""
    hit_rate: Annotated[str, Field(max_length=16)] = ""
    """Lookups that led to a draft of at least one token, as a share; text: etcd knows no floats."""


class RunAheadReport(Part):
    """What was generated in bubbles, since the operator first looked."""

    dispatched: int = 0
    """Chunks sent to engines."""
    completed: int = 0
    """Chunks that ran to their end."""
    aborted: int = 0
    """Chunks that a bubble's end cut; their tokens are kept."""
    tokens: int = 0
    """Tokens sampled by all of them."""
    tokens_drafted_from: int = 0
    """Of these, tokens that supplied at least one accepted draft token."""


Instant = Annotated[str, Field(max_length=64)]
Conditions = Annotated[tuple[Condition, ...], Field(strict=False, max_length=16), ListKey("type")]


class SRTJobStatus(Part):
    """Written by the operator only."""

    observed_generation: int = 1
    """Of the spec that was last acted on."""
    phase: Phase = Phase.PENDING
    """For people."""
    conditions: Conditions = ()
    """For programs; at most one of each type."""
    processes: Annotated[tuple[ProcessReport, ...], Field(strict=False, max_length=10_000)] = ()
    """In the order they start; in a cluster, the first that are not ready or were restarted."""
    progress: Progress = Progress()
    """Steps."""
    start_time: Instant | None = None
    """When the job became active, in a cluster."""
    completion_time: Instant | None = None
    """When it ended, in a cluster."""
    rollout: RolloutReport = RolloutReport()
    """Engines, in a cluster."""
    cache: CacheReport = CacheReport()
    """Trees, in a cluster."""
    run_ahead: RunAheadReport = RunAheadReport()
    """Bubbles, in a cluster."""


def read_status(document: Mapping[str, Any]) -> SRTJobStatus:
    """What was said of a job last; nothing, if it is not ours."""
    try:
        return SRTJobStatus.model_validate(document, strict=False)
    except ValidationError:
        return SRTJobStatus()


class RolloutPoolStatus(Part):
    """Written by the operator only."""

    observed_generation: int = 1
    """Of the spec that was last acted on."""
    conditions: Conditions = ()
    """For programs; at most one of each type."""
    selector: Annotated[str, Field(max_length=1024)] = ""
    """Of its pods, for the scale subresource."""
    replicas: int = 0
    """Pods there are."""
    ready_replicas: int = 0
    """Engines that serve."""
    updated_replicas: int = 0
    """Pods made from the current spec."""
    policy_version: int | None = None
    """Oldest weights among the engines; absent: unknown."""
    gpu_utilization: Annotated[str, Field(max_length=16)] = ""
    """How busy the engines' GPUs are, as a share; empty: no source that its job names has data."""


class TreeCacheStatus(Part):
    """Written by the operator only."""

    observed_generation: int = 1
    """Of the spec that was last acted on."""
    conditions: Conditions = ()
    """For programs; at most one of each type."""
    replicas: int = 0
    """Pods there are."""
    ready_replicas: int = 0
    """Replicas that answer."""
    display: Annotated[str, Field(max_length=64)] = ""
    """Replicas that answer and that are asked for, for people."""
    prompts: int | None = None
    """Trees of the replica with most; absent: unknown."""
    memory: Annotated[str, Field(max_length=32)] | None = None
    """Bytes of its trees; absent: unknown."""
