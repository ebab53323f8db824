"""The policy: a Hugging Face causal language model, its optimizer, and one update.

Shapes: N = rollouts of the step, B = rollouts of a micro-batch, S = tokens of its longest row,
prompt included, K = positions of a micro-batch whose logits are needed.

* An update is a function of the weights, the optimizer's state and the records of the step:
  replaying it on the same machine and thread count gives the same weights, bit for bit.
* Dropout is off: the sampler has none either.
* Data only: weights are read from safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import numpy as np
import torch
import transformers

from srt_trainer.algorithms.base import Algorithm, LossTerms, StepTotals, TokenBatch
from srt_trainer.micro_batches import micro_batches
from srt_trainer.rollouts import Rollout
from srt_trainer.settings import OptimizerSettings, TrainerSettings
from srt_trainer.token_log_probs import token_log_probs

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class UpdateAbandoned(Exception):
    """The process was asked to stop; the update it was in never happened."""


@dataclass(frozen=True, slots=True)
class UpdateStatistics:
    """Means over the response tokens of the step, from its last pass over them."""

    loss: float
    grad_norm: float
    """Before it was clipped."""
    learning_rate: float
    kl: float | None
    """To the initial policy; None without a reference model."""
    clip_low_fraction: float
    clip_high_fraction: float
    entropy: float
    """Nats per token of the policy before the pass."""
    sampler_log_prob_difference_mean: float
    """Absolute difference between trainer and engine on the sampled tokens, first pass."""
    sampler_log_prob_difference_max: float


@dataclass(frozen=True, slots=True)
class _Rows:
    """A padded micro-batch. Column k of [B, K] belongs to the token that position k predicts."""

    input_ids: torch.Tensor
    """[B, S], padded on the right: causal attention never looks there."""
    targets: torch.Tensor
    """[B, K]."""
    is_response: torch.Tensor
    """[B, K] 1.0 where the target is a sampled token."""
    sampler_log_probs: torch.Tensor
    """[B, K]."""


@dataclass(slots=True)
class _Sums:
    """Sums over the micro-batches of one pass."""

    loss: float = 0.0
    kl: float = 0.0
    low_clipped: float = 0.0
    high_clipped: float = 0.0
    clip_count: float = 0.0
    entropy: float = 0.0
    difference: float = 0.0

    def add(self, other: _Sums) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Policy:
    """Weights, optimizer and the update. Use from one thread."""

    def __init__(
        self,
        model: Any,
        *,
        reference: Any | None,
        settings: OptimizerSettings,
        temperature: float,
    ) -> None:
        self.model = model.eval()
        self._reference = reference
        self._settings = settings
        self._temperature = temperature
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, settings.weight_decay), lr=settings.learning_rate
        )
        self.num_updates = 0
        """Optimizer updates applied so far."""

    @classmethod
    def load(cls, settings: TrainerSettings, *, needs_reference: bool) -> Self:
        """Read the initial policy from ``model.path``."""
        torch.set_num_threads(num_threads(settings, num_cores=torch.get_num_threads()))
        torch.manual_seed(settings.algorithm.seed)
        reference = load_model(settings).eval().requires_grad_(False) if needs_reference else None
        return cls(
            load_model(settings),
            reference=reference,
            settings=settings.optimizer,
            temperature=settings.sampling.temperature,
        )

    def update(
        self,
        rollouts: Sequence[Rollout],
        rewards: Sequence[float | None],
        algorithm: Algorithm,
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> UpdateStatistics:
        """Learn from one step's rollouts.

        Args:
            rollouts: [N], group after group.
            rewards: [N].
            algorithm: gives advantages and loss.
            should_stop: asked before each micro-batch.

        Raises:
            UpdateAbandoned: ``should_stop`` said so; the weights may have changed.
            FloatingPointError: the gradient is not finite; the weights may have changed.
        """
        known = [float("nan") if reward is None else reward for reward in rewards]
        advantages = algorithm.advantages(torch.tensor(known, dtype=torch.float32))
        keep = torch.tensor([algorithm.mask_row(rollout.finish_reason) for rollout in rollouts])
        step = _Step(rollouts, advantages, keep)
        for iteration in range(algorithm.num_iterations):
            sums, largest = self._accumulate(step, algorithm, should_stop)
            if iteration == 0:
                first_difference, first_largest = sums.difference, largest
            learning_rate = self._set_learning_rate()
            grad_norm = self._apply()
        clip_count = max(sums.clip_count, 1.0)
        return UpdateStatistics(
            loss=sums.loss,
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            kl=sums.kl / max(step.totals.num_tokens, 1) if algorithm.needs_reference else None,
            clip_low_fraction=sums.low_clipped / clip_count,
            clip_high_fraction=sums.high_clipped / clip_count,
            entropy=sums.entropy / step.num_response_tokens,
            sampler_log_prob_difference_mean=first_difference / step.num_response_tokens,
            sampler_log_prob_difference_max=first_largest,
        )

    def _accumulate(
        self, step: _Step, algorithm: Algorithm, should_stop: Callable[[], bool]
    ) -> tuple[_Sums, float]:
        """One pass over the step: gradients are left in the parameters."""
        sums, largest = _Sums(), 0.0
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        teaching, silent = step.split(always_teaches=algorithm.needs_reference)
        for rows, has_gradient in ((teaching, True), (silent, False)):
            limit = self._settings.max_tokens_per_micro_batch
            for indices in micro_batches(rows, step.lengths, max_tokens=limit):
                if should_stop():
                    raise UpdateAbandoned
                with torch.set_grad_enabled(has_gradient):
                    part, difference = self._micro_batch(step, indices, algorithm)
                sums.add(part)
                largest = max(largest, difference)
        return sums, largest

    def _micro_batch(
        self, step: _Step, indices: list[int], algorithm: Algorithm
    ) -> tuple[_Sums, float]:
        device = self.model.device
        rows = pad_rows([step.rollouts[index] for index in indices], device)
        log_probs, entropies = self._log_probs(self.model, rows)
        reference = None
        if algorithm.needs_reference:
            with torch.no_grad():
                reference = self._log_probs(self._reference, rows)[0]
        terms = algorithm.loss(
            TokenBatch(
                log_probs=log_probs,
                sampler_log_probs=rows.sampler_log_probs,
                reference_log_probs=reference,
                advantages=step.advantages[indices].to(device),
                mask=rows.is_response * step.keep[indices].to(device).unsqueeze(1),
            ),
            step.totals,
        )
        if terms.loss.requires_grad:
            terms.loss.backward()  # type: ignore[no-untyped-call]
        difference = (log_probs.detach() - rows.sampler_log_probs).abs() * rows.is_response
        entropy = (entropies * rows.is_response).sum()
        return _sums(terms, entropy, difference.sum()), difference.max().item()

    def _log_probs(self, model: Any, rows: _Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, K] log-probabilities of the targets and [B, K] entropies."""
        num_kept = rows.targets.shape[1]
        is_bfloat16 = self._settings.dtype == "bfloat16"
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=is_bfloat16):
            logits = model(
                input_ids=rows.input_ids, logits_to_keep=num_kept, use_cache=False
            ).logits[:, -num_kept:]
        log_probs, entropies = token_log_probs(
            logits.reshape(-1, logits.shape[-1]), rows.targets.reshape(-1), self._temperature
        )
        return log_probs.view(rows.targets.shape), entropies.view(rows.targets.shape)

    def _set_learning_rate(self) -> float:
        rate = self._settings.learning_rate
        if self._settings.warmup_steps:
            rate *= min(1.0, (self.num_updates + 1) / self._settings.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _apply(self) -> float:
        """Clip the gradient and move the weights."""
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self._settings.max_grad_norm
        ).item()
        if not np.isfinite(norm):
            raise FloatingPointError(
                f"the gradient norm of update {self.num_updates} is {norm}; it must be finite"
            )
        self.optimizer.step()
        self.num_updates += 1
        return norm

    def save_weights(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write model files as the hub has them; ``dtype``: of the weights, None as they are."""
        state = None if dtype is None else cast_state(self.model.state_dict(), dtype)
        self.model.save_pretrained(folder, state_dict=state)


class _Step:
    """One step's rollouts with what the algorithm makes of their rewards."""

    def __init__(
        self, rollouts: Sequence[Rollout], advantages: torch.Tensor, keep: torch.Tensor
    ) -> None:
        self.rollouts = rollouts
        self.advantages = advantages
        self.keep = keep
        self.lengths = [rollout.num_prompt_tokens + rollout.num_tokens for rollout in rollouts]
        self.num_response_tokens = sum(rollout.num_tokens for rollout in rollouts)
        kept = zip(rollouts, keep.tolist(), strict=True)
        self.totals = StepTotals(
            num_rollouts=len(rollouts),
            num_tokens=sum(rollout.num_tokens for rollout, is_kept in kept if is_kept),
        )

    def split(self, *, always_teaches: bool) -> tuple[list[int], list[int]]:
        """Rows that have a gradient, and rows that are only measured: their advantage is 0."""
        teaches = [always_teaches or advantage != 0 for advantage in self.advantages.tolist()]
        rows = range(len(teaches))
        return [row for row in rows if teaches[row]], [row for row in rows if not teaches[row]]


def _sums(terms: LossTerms, entropy: torch.Tensor, difference: torch.Tensor) -> _Sums:
    return _Sums(
        loss=terms.loss.item(),
        kl=terms.kl_sum.item(),
        low_clipped=terms.low_clipped_sum.item(),
        high_clipped=terms.high_clipped_sum.item(),
        clip_count=terms.clip_count.item(),
        entropy=entropy.item(),
        difference=difference.item(),
    )


def pad_rows(rollouts: Sequence[Rollout], device: torch.device | str) -> _Rows:
    """Lay rollouts out as one padded micro-batch."""
    lengths = [rollout.num_prompt_tokens + rollout.num_tokens for rollout in rollouts]
    first = min(rollout.num_prompt_tokens for rollout in rollouts) - 1
    input_ids = np.zeros((len(rollouts), max(lengths)), dtype=np.int64)
    is_response = np.zeros((len(rollouts), max(lengths)), dtype=np.float32)
    sampler_log_probs = np.zeros_like(is_response)
    for row, rollout in enumerate(rollouts):
        start, end = rollout.num_prompt_tokens, lengths[row]
        input_ids[row, :start] = rollout.prompt_array()
        input_ids[row, start:end] = rollout.token_array()
        is_response[row, start - 1 : end - 1] = 1.0
        sampler_log_probs[row, start - 1 : end - 1] = rollout.log_prob_array()
    targets = np.zeros_like(input_ids)
    targets[:, :-1] = input_ids[:, 1:]
    return _Rows(
        input_ids=torch.from_numpy(input_ids).to(device),
        targets=torch.from_numpy(targets[:, first:]).to(device),
        is_response=torch.from_numpy(is_response[:, first:]).to(device),
        sampler_log_probs=torch.from_numpy(sampler_log_probs[:, first:]).to(device),
    )


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """AdamW's groups: matrices decay, vectors (biases, norms) do not."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups: list[dict[str, object]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def cast_state(state: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Cast floating tensors; tensors that share memory still do afterwards."""
    casts: dict[int, torch.Tensor] = {}
    for tensor in state.values():
        if tensor.is_floating_point():
            casts.setdefault(tensor.data_ptr(), tensor.to(dtype))
    return {name: casts.get(tensor.data_ptr(), tensor) for name, tensor in state.items()}


def num_threads(settings: TrainerSettings, *, num_cores: int) -> int:
    """Threads torch may use: engines on this machine keep a core each, or all would crawl."""
    hosts = [urlsplit(engine.url).hostname for engine in settings.engines]
    num_beside = sum(host in LOOPBACK for host in hosts)
    return settings.num_threads or max(1, num_cores - num_beside)


def load_model(settings: TrainerSettings) -> Any:
    """The initial policy on its device, float32."""
    transformers.utils.logging.disable_progress_bar()
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        settings.model.path,
        dtype=torch.float32,
        attn_implementation=settings.model.attention,
        trust_remote_code=settings.model.trust_remote_code,
        use_safetensors=True,
        local_files_only=True,
    )
    return model.to(device)
