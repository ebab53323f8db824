"""RolloutPool: equal rollout engines, made for a job or shared by reference.

* A pool serves one job at a time; it outlives the job when it was made on its own.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from srt_operator import rules
from srt_operator.resource_parts import (
    Allowed,
    Bytes,
    Metadata,
    ObjectName,
    Part,
    PodTemplate,
    Reference,
    Seconds,
    Words,
)


class ModelSpec(Part):
    """The policy before the first step."""

    uri: Annotated[
        str,
        Field(max_length=512, pattern=r"^(file|hf|pvc)://[A-Za-z0-9._/@:~-]+$"),
        Allowed("file://PATH, pvc://CLAIM/PATH or hf://ORGANISATION/NAME"),
    ]
    """Model folder with its tokenizer. ``/data/examples`` stands for the installed examples;
    ``pvc://`` in a cluster only, ``hf://`` on one machine only."""


class EngineSpec(Part):
    """One vLLM engine."""

    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] = 256
    """Rollouts decoded at a time, both lanes together."""
    max_model_len: Annotated[int, Field(ge=16, le=16_777_216)]
    """Prompt and response tokens of one rollout."""
    dtype: Literal["auto", "float32", "bfloat16"] | None = None
    """Of weights and activations; absent: as the trainer's; auto: bfloat16 where the hardware has
    it, else float32."""
    kv_cache_memory: Annotated[Bytes, Field(ge=2**24)] | None = None
    """KV cache of one engine; absent: vLLM decides."""
    extra_args: Words = ()
    """More vLLM flags; those that would break safety are refused by the engine."""


class DrafterSpec(Part):
    """Drafting from the trees."""

    enabled: bool = True
    """False: stock vLLM, no tree cache, no run-ahead."""
    max_draft_tokens: Annotated[int, Field(ge=1, le=64)] = 16
    """Longest draft of one rollout in one step; how much of it is used follows step time."""
    max_tree_bytes: Annotated[Bytes, Field(ge=2**20)] = 2**30
    """Trees held by one engine."""


class RolloutTemplate(Part):
    """A pool of equal engines."""

    replicas: Annotated[int, Field(ge=1, le=4096)] = 1
    """Engines."""
    engine: EngineSpec
    """Each engine."""
    drafter: DrafterSpec = DrafterSpec()
    """Each engine's drafter."""
    drain_seconds: Seconds = 10.0
    """Policy rollouts may finish this long after a pod is told to stop."""
    pod_template: PodTemplate = PodTemplate()
    """Its pods in a cluster; a local run ignores it."""


class PoolRunAhead(Part):
    """Whether workers for run-ahead stand beside the engines."""

    enabled: bool = True
    """False: none."""
    reserve_slots: Annotated[int, Field(ge=0, le=4096)] = 8
    """Slots of each engine that run-ahead never takes."""


class PoolWeights(Part):
    """A shared folder that weights come through."""

    claim_name: ObjectName
    """Claim of the namespace."""
    path: Annotated[str, Field(max_length=512)]
    """Folder of the claim; the trainer writes to it."""


class RolloutPoolSpec(RolloutTemplate):
    """A pool that stands on its own: what a job's template says, and what the job would add."""

    replicas: Annotated[int, Field(ge=0, le=4096)] = 1
    """Engines; what ``kubectl scale`` changes."""
    model: ModelSpec
    """What the engines serve until a trainer sends weights."""
    tree_cache_ref: Reference | None = None
    """The TreeCache that drafts come from; needed by the drafter."""
    weights: PoolWeights | None = None
    """Absent: engines fetch weights from the trainer over HTTP."""
    run_ahead: PoolRunAhead = PoolRunAhead()
    """Workers beside the engines."""
    trace_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of rollouts that are traced."""


class RolloutPool(Part):
    """Rollout engines as a resource."""

    api_version: Literal["srt-rl.dev/v1alpha1"]
    kind: Literal["RolloutPool"]
    metadata: Metadata
    spec: RolloutPoolSpec

    @model_validator(mode="after")
    def _rules_between_fields_hold(self) -> Self:
        rules.check(self.model_dump(mode="python", by_alias=True))
        return self
