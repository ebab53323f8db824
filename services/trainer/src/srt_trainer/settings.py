"""The trainer's job description, ``trainer.json``: typed, bounded, frozen.

* Every field says what it is, its unit and what it does when it is left out.
* Every fault of a file is reported at once, one sentence each, naming the field, the value and what
  is allowed.
* Importable without torch: whoever writes the file (the operator) checks it with this model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from srt_common.errors import ConfigurationError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$")]
"""A Kubernetes name: lower case letters, digits, '-' and '.', at most 63."""


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )


class ModelSettings(_Section):
    """Which policy is trained."""

    path: Path
    """Folder of a Hugging Face causal language model: ``config.json`` and safetensors."""

    tokenizer_path: Path | None = None
    """Folder of its tokenizer; None: the model's own folder."""

    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless the cluster operator allows it."""

    attention: Literal["sdpa", "eager"] = "sdpa"
    """Which attention implementation of transformers is used."""


class DatasetSettings(_Section):
    """Where prompts come from."""

    uri: str
    """``reasoning-gym://<task>?seed=1&size=64&<task settings>``, ``file:///<path>`` (``.jsonl``,
    ``.json`` or ``.parquet``) or
    ``hf://<owner>/<name>?split=train&name=<configuration>&revision=<revision>``."""

    prompt_field: str | None = None
    """Column of the prompt: a text or a list of chat messages. None: ``question`` for
    reasoning-gym, else ``prompt``."""

    answer_field: str = "answer"
    """Column that reward functions get as ``answer``."""


class SamplingSettings(_Section):
    """How rollouts are sampled; evaluation samples in the same way."""

    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Below 1 the importance ratios compare the whole policy with the cut distribution it was
    sampled from."""

    top_k: Annotated[int, Field(ge=-1)] = -1
    """-1 or 0: no limit."""

    max_prompt_tokens: PositiveInt
    """A longer prompt is refused when the data set is loaded, never cut."""

    max_response_tokens: PositiveInt
    """A rollout ends here at the latest."""


class GRPOSettings(_Section):
    """Group relative policy optimisation; names and defaults are those of TRL's ``GRPOConfig``."""

    epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The ratio is clipped from below at 1 - epsilon."""

    epsilon_high: NonNegativeFloat | None = None
    """The ratio is clipped from above at 1 + epsilon_high; None: epsilon. DAPO uses 0.28."""

    delta: PositiveFloat | None = None
    """Upper bound of the unclipped ratio (two-sided clipping), should be above 1 + epsilon_high;
    None: no bound."""

    beta: NonNegativeFloat = 0.0
    """Weight of the KL divergence to the initial policy. 0: no reference model is loaded."""

    num_iterations: PositiveInt = 1
    """Optimizer updates on the rollouts of one step."""

    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation the advantages are divided by."""

    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dapo"
    """How token losses become one number: see ``algorithms.grpo.token_weights``."""

    importance_sampling_level: Literal["token", "sequence"] = "token"
    """One ratio per token, or one per rollout (GSPO)."""

    mask_truncated_completions: bool = False
    """Leave rollouts that were cut at ``max_response_tokens`` out of the loss."""


class AlgorithmSettings(_Section):
    """How much is sampled and what is learnt from it."""

    type: Literal["GRPO"] = "GRPO"
    steps: PositiveInt
    """Steps of the job: each samples, scores and learns once, and publishes one
    ``policy_version``."""

    prompts_per_step: PositiveInt
    rollouts_per_prompt: Annotated[int, Field(ge=2)]
    """Group size G, TRL's ``num_generations``."""

    seed: NonNegativeInt = 0
    """Decides the order of the prompts."""

    grpo: GRPOSettings = GRPOSettings()


class OptimizerSettings(_Section):
    """AdamW with a constant rate after a linear warm-up."""

    learning_rate: PositiveFloat = 1e-6
    weight_decay: NonNegativeFloat = 0.0
    """Applied to matrices only, not to biases and norms."""

    max_grad_norm: PositiveFloat = 1.0
    """The gradient is scaled down to this norm."""

    warmup_steps: NonNegativeInt = 0
    """Optimizer updates until the full rate."""

    max_tokens_per_micro_batch: PositiveInt = 16384
    """Padded tokens of one forward and backward pass. Changes memory and speed, not the
    gradient."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: computed under autocast and published as bfloat16; the master weights stay
    float32."""


class EvaluationSettings(_Section):
    """Accuracy of the current policy on held-out prompts, at the start, every so often and at the
    end.
    """

    uri: str
    """Like ``dataset.uri``; its columns have the names of ``dataset``."""

    every_steps: PositiveInt
    samples: PositiveInt
    """Rollouts of one evaluation; prompts are taken in order, again from the first when they run
    out."""


class StorageSettings(_Section):
    """Where weights and checkpoints are written."""

    weights_dir: Path
    """Shared with the engines: ``policy-000012/`` below it holds the weights of policy version
    12."""

    checkpoints_dir: Path
    checkpoint_every_steps: PositiveInt = 10
    keep_checkpoints: PositiveInt = 2


class EngineEndpoint(_Section):
    """Gateway of one rollout engine."""

    name: Name
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^/?#]+$")]
    """``http://host:port``, without a path."""


class CacheSettings(_Section):
    """The TreeCache the engines share, as far as the trainer must name prompts for it."""

    secret_file: Path
    """Key of the prompt digests, 1 to 64 bytes."""


class TrainerSettings(_Section):
    """The whole of ``trainer.json``."""

    job: Name
    run_dir: Path
    """``metrics.jsonl``, ``trainer_summary.json``, ``journal/``, ``tensorboard/`` and ``final/`` go
    here."""

    model: ModelSettings
    dataset: DatasetSettings
    file_roots: Annotated[tuple[Path, ...], Field(min_length=1)] | None = None
    """Folders below which files of data sets must lie, links followed; None: anywhere."""

    reward: Annotated[str, StringConstraints(min_length=1)]
    """``reasoning-gym``, ``exact-match`` or ``package.module:function`` with TRL's reward
    signature."""

    environment: Literal["single-turn"] = "single-turn"
    sampling: SamplingSettings
    algorithm: AlgorithmSettings
    optimizer: OptimizerSettings = OptimizerSettings()
    evaluation: EvaluationSettings | None = None
    storage: StorageSettings
    engines: tuple[EngineEndpoint, ...] = ()
    """At least one, unless `engine_service` says where they are."""

    engine_service: Annotated[str, StringConstraints(pattern=r"^http://[^/?#@:]+:[0-9]+$")] | (
        None
    ) = None
    """``http://name:port`` of a headless Service: every address that the name has is an engine, and
    the name is looked up again all the time. None: `engines` lists them."""

    token_file: Path | None = None
    """Bearer token of the gateways; None: they ask for none."""

    coordination_url: str | None = None
    """Redis-protocol server for phases and the look-ahead window; None: neither is published."""

    cache: CacheSettings | None = None
    """None: no tree cache, so no look-ahead window is published."""

    look_ahead_steps: NonNegativeInt = 2
    """How many steps after the current one the published window reaches."""

    max_concurrent_rollouts: PositiveInt = 64
    """Most rollouts in flight on one engine."""

    request_timeout_seconds: PositiveFloat = 120.0
    """What any request may take, before `request_timeout_seconds_per_token` is added."""

    request_timeout_seconds_per_token: NonNegativeFloat = 1.0
    """Further time a rollout may take for each token it may sample."""

    max_rollout_attempts: PositiveInt = 20
    """Failed attempts at one rollout, or at loading weights into one reachable engine, that stop
    the job."""

    num_threads: PositiveInt | None = None
    """Threads of torch. None: on a CPU one per core, less one for each engine on this machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Sinks beside ``metrics.jsonl``."""

    @field_validator("reward")
    @classmethod
    def _reward_is_known(cls, name: str) -> str:
        if name not in ("reasoning-gym", "exact-match") and ":" not in name:
            raise ValueError("allowed are reasoning-gym, exact-match and package.module:function")
        return name

    @model_validator(mode="after")
    def _engines_have_names(self) -> Self:
        names = [engine.name for engine in self.engines]
        if names and self.engine_service is not None:
            raise ValueError("engines and engine_service are both given; allowed is one of them")
        if not names and self.engine_service is None:
            raise ValueError("engines is []; at least one is required")
        if len(set(names)) < len(names):
            raise ValueError(f"engines have the names {names}; each name is allowed once")
        return self

    @model_validator(mode="after")
    def _rollouts_fit_a_micro_batch(self) -> Self:
        longest = self.sampling.max_prompt_tokens + self.sampling.max_response_tokens
        limit = self.optimizer.max_tokens_per_micro_batch
        if limit < longest:
            raise ValueError(
                f"optimizer.max_tokens_per_micro_batch is {limit}; "
                f"allowed is {longest} (one rollout) or more"
            )
        return self


def load_settings(path: Path) -> TrainerSettings:
    """Read and check a ``trainer.json``.

    Raises:
        ConfigurationError: every fault of the file.
    """
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(faults=[f"{path} cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigurationError(faults=[f"{path} is not JSON: {error}"]) from error
    return parse_settings(document)


def parse_settings(document: object) -> TrainerSettings:
    """Check the content of a ``trainer.json``. Raises ConfigurationError with every fault."""
    try:
        return TrainerSettings.model_validate(document)
    except ValidationError as error:
        faults = [
            _sentence(fault["type"], fault["loc"], fault["input"], fault["msg"])
            for fault in error.errors(include_url=False)
        ]
        raise ConfigurationError(faults=faults) from error


def _sentence(kind: str, location: tuple[int | str, ...], value: object, message: str) -> str:
    field = ".".join(str(part) for part in location)
    message = message.removeprefix("Value error, ")
    if not location:
        return message if isinstance(value, dict) else f"trainer.json is not an object: {message}"
    if kind == "missing":
        return f"{field} is missing; it is required"
    if kind == "extra_forbidden":
        return f"{field} is {value!r}; no such field is allowed"
    return f"{field} is {value!r}: {message}"
