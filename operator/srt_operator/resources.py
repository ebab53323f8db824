"""SRTJob: what a user writes, typed through and through; source of its checks and reference.

* Names as TRL and Kubernetes users know them; camelCase in files, snake_case here.
* Bounds of one field live in its type, rules between fields in `srt_operator.rules`.
* Frozen: whoever holds a job may pass it on.
* A field without effect has no place here; unknown fields are refused.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from srt_operator import rules
from srt_operator.caches import TreeCacheTemplate
from srt_operator.pools import ModelSpec, RolloutTemplate
from srt_operator.resource_parts import (
    Allowed,
    Count,
    Fraction,
    Metadata,
    ObjectName,
    Part,
    PodTemplate,
    Reference,
    Seconds,
)

_DATASET_URI: Final = r"^(reasoning-gym|hf|file)://[A-Za-z0-9._/@:?&=%,+~-]+$"
DatasetURI = Annotated[
    str,
    Field(max_length=512, pattern=_DATASET_URI),
    Allowed("reasoning-gym://TASK?seed=..&size=.., hf://NAME or file://PATH (JSONL, parquet)"),
]


class DatasetSpec(Part):
    """Where prompts come from."""

    uri: DatasetURI
    """Prompts with their answers."""
    prompt_field: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Column of the prompt; absent: ``question`` for reasoning-gym, else ``prompt``."""
    answer_field: Annotated[str, Field(min_length=1, max_length=64)] = "answer"
    """Column that holds the reference answer."""


class RewardSpec(Part):
    """What a rollout is worth."""

    name: Annotated[
        str,
        Field(
            max_length=256,
            pattern=r"^(reasoning-gym|exact-match|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        ),
        Allowed("reasoning-gym, exact-match or package.module:function"),
    ] = "reasoning-gym"
    """Scorer; a function has TRL's reward signature."""


class EnvironmentSpec(Part):
    """What answers the policy."""

    name: Literal["single-turn"] = "single-turn"
    """One prompt, one response."""


class SamplingSpec(Part):
    """How rollouts are sampled."""

    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Of the policy's distribution."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus; 1 keeps everything."""
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] = -1
    """Largest entries kept; -1 or 0 keeps everything."""
    max_prompt_tokens: Count = 2048
    """A longer prompt is refused by name."""
    max_response_tokens: Count = 8192
    """A rollout ends here at the latest."""


class GRPOSpec(Part):
    """Parameters of the GRPO loss, named as in TRL's GRPOConfig."""

    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Lower clip of the importance ratio."""
    epsilon_high: Annotated[float, Field(gt=0, le=10)] | None = None
    """Upper clip; absent: epsilon."""
    delta: Annotated[float, Field(gt=1, le=1000)] | None = None
    """Upper bound of the unclipped ratio (two-sided clipping); absent: none."""
    beta: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Weight of the KL term against the first policy; 0 holds no reference model."""
    num_iterations: Annotated[int, Field(ge=1, le=64)] = 1
    """Optimizer passes over the rollouts of one step."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What advantages are divided by: standard deviation of the group, of the batch, or nothing."""
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dapo"
    """How token losses are averaged."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Ratio per token or per rollout."""


class AlgorithmSpec(Part):
    """What one step does and how many there are."""

    type: Literal["GRPO"]
    """PPO and DAPO are not built yet."""
    steps: Count
    """Optimizer steps of the job; may only grow, and only while it is suspended or stopped."""
    prompts_per_step: Annotated[int, Field(ge=1, le=65_536)]
    """Groups sampled each step."""
    rollouts_per_prompt: Annotated[int, Field(ge=1, le=4096)]
    """Group size; TRL: num_generations."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Of the order of prompts."""
    grpo: GRPOSpec = GRPOSpec()
    """Loss parameters."""


class OptimizerSpec(Part):
    """AdamW and how a step is cut into micro-batches."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.0e-6
    """After warm-up."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Clip of the global norm."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Linear warm-up."""
    max_tokens_per_micro_batch: Annotated[int, Field(ge=1, le=16_777_216)] = 16_384
    """Prompt and response tokens of one forward pass, padding included."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the trainer, and of the engines unless they name their own."""


class EvaluationSpec(Part):
    """Accuracy on problems that are not trained on: at the start, on the way and at the end."""

    uri: DatasetURI
    """Problems."""
    every_steps: Count = 50
    """Optimizer steps between evaluations."""
    samples: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """Rollouts of each evaluation."""


class StorageSpec(Part):
    """Where a run leaves its files."""

    path: Annotated[str, Field(min_length=1, max_length=512)] = "runs"
    """The run folder is ``<path>/<metadata.name>``; in a cluster, below the claim's root."""
    claim_name: ObjectName | None = None
    """Claim of the namespace that run folder and weights lie on, in a cluster; absent: weights
    travel over HTTP, and what the trainer wrote goes with its pod."""
    checkpoint_every_steps: Count = 50
    """Optimizer steps between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 2
    """Newest ones kept."""


class TrainerSpec(Part):
    """How many processes train."""

    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Machines; more than one is not built yet."""
    proc_per_node: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes on each; more than one is not built yet."""
    pod_template: PodTemplate = PodTemplate()
    """Its pods in a cluster; a local run ignores it."""


class RolloutSpec(Part):
    """Where rollouts are sampled: exactly one of both."""

    template: RolloutTemplate | None = None
    """The pool this job owns."""
    pool_ref: Reference | None = None
    """A RolloutPool of the namespace that this job uses, with its trees and the slots it reserves;
    it serves the job's model. In a cluster only."""

    @property
    def pool(self) -> RolloutTemplate:
        """The engines. A reference must have been resolved (`with_references`)."""
        assert self.template is not None, "poolRef is not resolved"
        return self.template


class JobTreeCacheSpec(Part):
    """Where trees are shared: at most one of both; neither: a template with its defaults."""

    template: TreeCacheTemplate | None = None
    """The cache this job owns."""
    cache_ref: Reference | None = None
    """A TreeCache of the namespace that this job shares; in a cluster only."""

    @property
    def cache(self) -> TreeCacheTemplate:
        """The cache. A reference must have been resolved (`with_references`)."""
        assert self.cache_ref is None or self.template is not None, "cacheRef is not resolved"
        return self.template or TreeCacheTemplate()


BubbleSource = Literal["TrainerPhase", "EngineLoad", "NVML", "Prometheus"]


class BubbleSpec(Part):
    """When an engine counts as idle (platform.md 3.3): open slowly, close at once, fail closed."""

    sources: Annotated[tuple[BubbleSource, ...], Field(strict=False, max_length=4)] = (
        "TrainerPhase",
        "EngineLoad",
    )
    """What bubbles are told from. ``TrainerPhase`` and ``EngineLoad`` decide and are always there;
    ``NVML`` (rollout pods read their own GPUs) and ``Prometheus`` (DCGM's exporter, asked at the
    operator's ``monitoring.prometheusUrl``, in a cluster) may join: they veto a bubble while
    others use the GPU, and abstain where they have no recent data."""
    open_below: Fraction = 0.5
    """Share of slots with policy rollouts below which the tail of a phase counts as a bubble."""
    close_above: Fraction = 0.85
    """Share of slots with policy rollouts at which a bubble closes."""
    open_after_seconds: Seconds = 1.0
    """The engine has been idle this long before a bubble opens."""
    min_remaining_seconds: Seconds = 5.0
    """A bubble opens only when it is likely (75 %) to last this much longer."""
    cooldown_seconds: Seconds = 2.0
    """After a bubble closed, the engine rests this long."""
    learn_steps: Annotated[int, Field(ge=0, le=1000)] = 3
    """Steps whose bubbles are only timed."""


class RunAheadSpec(Part):
    """Generation for prompts to come while engines would idle."""

    enabled: bool = True
    """False: engines idle in bubbles."""
    reserve_slots: Annotated[int, Field(ge=0, le=4096)] = 8
    """Slots of each engine that run-ahead never takes."""
    chunk_tokens: Annotated[int, Field(ge=16, le=8192)] = 512
    """Tokens of one task."""
    max_tokens_per_step: Annotated[int, Field(ge=0, le=2**40)] | None = None
    """Run-ahead tokens asked for in one optimizer step; absent: no limit."""
    bubble: BubbleSpec = BubbleSpec()
    """When."""


class TelemetrySpec(Part):
    """What is recorded."""

    trace_sample_ratio: Fraction = 0.01
    """Share of rollouts that are traced; steps always are."""
    report_to: Annotated[
        tuple[Literal["tensorboard", "wandb"], ...], Field(strict=False, max_length=2)
    ] = ()
    """Sinks beside metrics.jsonl."""


class SRTJobSpec(Part):
    """One training run."""

    model: ModelSpec
    """What is trained."""
    dataset: DatasetSpec
    """What it is trained on."""
    reward: RewardSpec = RewardSpec()
    """How rollouts are scored."""
    environment: EnvironmentSpec = EnvironmentSpec()
    """What rollouts talk to."""
    sampling: SamplingSpec = SamplingSpec()
    """How rollouts are sampled; evaluation too."""
    algorithm: AlgorithmSpec
    """How much is sampled and learnt."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """How weights change."""
    evaluation: EvaluationSpec | None = None
    """Absent: accuracy is not measured."""
    storage: StorageSpec = StorageSpec()
    """Where files go."""
    trainer: TrainerSpec = TrainerSpec()
    """The training processes."""
    rollout: RolloutSpec
    """The rollout engines."""
    tree_cache: JobTreeCacheSpec = JobTreeCacheSpec()
    """The shared trees."""
    run_ahead: RunAheadSpec = RunAheadSpec()
    """What engines do in bubbles."""
    telemetry: TelemetrySpec = TelemetrySpec()
    """Traces and sinks."""
    managed_by: Literal["srt-rl.dev/srt-operator", "kueue.x-k8s.io/multikueue"] = (
        "srt-rl.dev/srt-operator"
    )
    """Who looks after the job in a cluster; a job that is somebody else's is left alone."""
    suspend: bool = False
    """True: nothing runs; what ran is stopped."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Seconds after its end in which a cluster deletes the job; absent: it stays."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """The job fails when it has been active this long."""
    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = 3
    """Restarts of one process before it is given up."""


class SRTJob(Part):
    """A training run as a resource; the same file for ``srt run`` and a cluster."""

    api_version: Literal["srt-rl.dev/v1alpha1"]
    kind: Literal["SRTJob"]
    metadata: Metadata
    spec: SRTJobSpec

    @model_validator(mode="after")
    def _rules_between_fields_hold(self) -> Self:
        rules.check(self.model_dump(mode="python", by_alias=True))
        return self
