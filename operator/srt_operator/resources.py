"""SRTJob: what a user writes, typed through and through; source of its checks and reference.

* Names as TRL and Kubernetes users know them; camelCase in files, snake_case here.
* Bounds of one field live in its type, rules between fields in `srt_operator.rules`.
* Frozen: whoever holds a job may pass it on.
* A field without effect has no place here; unknown fields are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from pydantic.alias_generators import to_camel

from srt_operator import quantities, rules

API_VERSION: Final = "srt-rl.dev/v1alpha1"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a field accepts, in words, where its type alone does not say it well."""

    text: str


Bytes = Annotated[
    int,
    BeforeValidator(quantities.parse_bytes),
    PlainSerializer(quantities.format_bytes, return_type=str),
    Allowed(quantities.ALLOWED),
]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Words = Annotated[tuple[str, ...], Field(strict=False, max_length=64)]

_DATASET_URI: Final = r"^(reasoning-gym|hf|file)://[A-Za-z0-9._/@:?&=%,+~-]+$"
DatasetURI = Annotated[
    str,
    Field(max_length=512, pattern=_DATASET_URI),
    Allowed("reasoning-gym://TASK?seed=..&size=.., hf://NAME or file://PATH (JSONL, parquet)"),
]


class Part(BaseModel):
    """Base of every part of a job."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )


class Metadata(Part):
    """Who the job is. Labels and annotations are the cluster's; a local run carries them along."""

    name: Annotated[
        str,
        Field(max_length=40, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"),
        Allowed("1 to 40 lower-case letters, digits and dashes, no dash at an end"),
    ]
    """Names the run folder and, in a cluster, the children; at most 40 characters."""
    namespace: Annotated[str, Field(max_length=63)] | None = None
    """Namespace in a cluster; a local run ignores it."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels in a cluster."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations in a cluster."""


class ModelSpec(Part):
    """The policy before the first step."""

    uri: Annotated[
        str,
        Field(max_length=512, pattern=r"^(file|hf)://[A-Za-z0-9._/@:~-]+$"),
        Allowed("file://PATH or hf://ORGANISATION/NAME"),
    ]
    """Model folder with its tokenizer. ``/data/examples`` stands for the installed examples."""


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
    """Optimizer steps of the job; may only grow on resume."""
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
    """The run folder is ``<path>/<metadata.name>``."""
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


class EngineSpec(Part):
    """One vLLM engine."""

    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] = 256
    """Rollouts decoded at a time, both lanes together."""
    max_model_len: Annotated[int, Field(ge=16, le=16_777_216)]
    """Prompt and response tokens of one rollout."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of weights and activations; absent: as the trainer's."""
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


class RolloutSpec(Part):
    """Where rollouts are sampled."""

    template: RolloutTemplate
    """The pool this job owns."""


class RetentionSpec(Part):
    """What the shared trees keep."""

    max_bytes: Annotated[Bytes, Field(ge=2**20)] = 2**30
    """Trees of one replica; least useful prompts go first."""
    rollouts_per_prompt: Annotated[int, Field(ge=1, le=1024)] = 128
    """Rollouts kept of one prompt; the least useful go first."""


class RedisSpec(Part):
    """A Redis-protocol server of one's own."""

    endpoint: Annotated[
        str,
        Field(max_length=512, pattern=r"^(redis|rediss|unix)://\S+$"),
        Allowed("redis://, rediss:// or unix:// URL"),
    ]
    """Absent in a local run: one is started."""


class TreeCacheTemplate(Part):
    """The tree cache this job owns."""

    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that hold the trees, compact the log and answer queries."""
    shards: Literal[16, 32, 64, 128, 256, 512, 1024] = 256
    """Streams of the update log; fixed for the life of a run."""
    retention: RetentionSpec = RetentionSpec()
    """What stays."""
    redis: RedisSpec | None = None
    """Where log and snapshots live."""


class TreeCacheSpec(Part):
    """Where trees are shared."""

    template: TreeCacheTemplate = TreeCacheTemplate()
    """The cache this job owns."""


class BubbleSpec(Part):
    """When an engine counts as idle (platform.md 3.3): open slowly, close at once, fail closed."""

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
    tree_cache: TreeCacheSpec = TreeCacheSpec()
    """The shared trees."""
    run_ahead: RunAheadSpec = RunAheadSpec()
    """What engines do in bubbles."""
    telemetry: TelemetrySpec = TelemetrySpec()
    """Traces and sinks."""
    suspend: bool = False
    """True: nothing runs; what ran is stopped."""
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
        document = self.model_dump(mode="python", by_alias=True)
        if faults := rules.broken(document, skip=frozenset()):
            raise ValueError("\n".join(faults))
        return self
