"""The one place that attaches to vLLM's internals, after checking that they are what we know.

vLLM itself is not changed: no file is edited and nothing is swapped when modules are imported. When
a worker has loaded its model, `attach` gives that engine four instance overrides, one forward hook
and two wrapped functions. An unknown version or signature stops the engine with a sentence.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import vllm
from numpy.typing import NDArray
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.metadata import SamplingMetadata

from srt_common.errors import ConfigurationError
from srt_rollout.vllm_plugin.sampler import (
    SparseDraft,
    Verification,
    emitted_rows,
    expand_batch_to_tokens,
    verify_drafts,
)

OLDEST_SUPPORTED = (0, 27)
NEWEST_SUPPORTED = (0, 32)
"""Minor versions of vLLM the drafter runs on; the gateway and the trainer need 0.32."""

REJECTION_SAMPLE_PARAMETERS = (
    "draft_token_ids",
    "num_draft_tokens",
    "max_spec_len",
    "cu_num_draft_tokens",
    "draft_probs",
    "target_logits",
    "bonus_token_ids",
    "sampling_metadata",
)
LOGPROBS_PARAMETERS = (
    "self",
    "max_num_logprobs",
    "metadata",
    "logits",
    "target_logits",
    "bonus_logits",
    "sampled_token_ids",
)
SAMPLE_PARAMETERS = ("self", "logits", "spec_decode_metadata")
METADATA_PARAMETERS = ("self", "num_draft_tokens", "cu_num_scheduled_tokens")
EXPAND_PARAMETERS = ("x", "cu_num_tokens", "num_tokens", "replace_from", "replace_to")


class VerificationListener(Protocol):
    """Who supplies a step's draft distributions and learns from their verification."""

    def is_plain(self, num_draft_tokens: list[int]) -> bool:
        """Whether a step has nothing to verify and nothing to learn: it is sampled as an engine
        without a drafter would, which costs less and draws the same random numbers.
        """
        ...

    def draft_distributions(self, num_draft_tokens: list[int]) -> SparseDraft:
        """Distributions of the drafts about to be verified, in the order of the batch."""
        ...

    def on_bonus(self, logits: Tensor, sampling: SamplingMetadata) -> None:
        """Logits [B, V] after each draft, as the engine's sampler returns them."""
        ...

    def on_verified(self, verification: Verification) -> None:
        """What became of the drafts of the running step."""
        ...


@dataclass(frozen=True, slots=True)
class DraftInFlight:
    """What vLLM's rejection sampler carries, untouched, from our override to our wrapped
    function.
    """

    draft: SparseDraft
    listener: VerificationListener


@dataclass(frozen=True, slots=True)
class PlainStep:
    """Stands for vLLM's metadata of a step in which nothing is verified: to build that is most of
    what an undrafted step costs over one without a drafter.
    """

    logits_indices: Tensor
    """[B] int32: where each request samples, as without a drafter."""


def check_version() -> None:
    """Refuse a vLLM that this plug-in was not run with.

    Raises:
        ConfigurationError: one sentence with the version found and the supported ones.
    """
    found = tuple(int(part) for part in vllm.__version__.split(".")[:2])
    if not OLDEST_SUPPORTED <= found <= NEWEST_SUPPORTED:
        raise ConfigurationError(
            faults=[
                f"vllm is {vllm.__version__}; the SRT drafter supports "
                f"{_dotted(OLDEST_SUPPORTED)} to {_dotted(NEWEST_SUPPORTED)}"
            ]
        )


def attach(runner: Any, listener: VerificationListener) -> None:
    """Let ``listener`` take part in every verification of this engine.

    Raises:
        ConfigurationError: vLLM's version or one of the signatures relied on is not known.
    """
    check_version()
    stock = runner.rejection_sampler
    _check_signature(
        rejection_sampler, "rejection_sample", REJECTION_SAMPLE_PARAMETERS, may_have_more=True
    )
    _check_signature(rejection_sampler, "expand_batch_to_tokens", EXPAND_PARAMETERS)
    _check_signature(type(stock), "_get_logprobs_tensors", LOGPROBS_PARAMETERS)
    _check_signature(type(runner), "_sample", SAMPLE_PARAMETERS)
    _check_signature(type(runner), "_calc_spec_decode_metadata", METADATA_PARAMETERS)
    _check_engine(runner)

    def draft_probs(metadata: Any) -> DraftInFlight:
        return DraftInFlight(listener.draft_distributions(metadata.num_draft_tokens), listener)

    def on_sampled(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if kwargs.get("predict_bonus_token"):
            listener.on_bonus(output.logprobs_tensors.logprobs, kwargs["sampling_metadata"])

    stock_sample, stock_metadata = runner._sample, runner._calc_spec_decode_metadata

    def metadata(num_draft_tokens: NDArray[np.int32], ends: NDArray[np.int32]) -> Any:
        if not listener.is_plain(num_draft_tokens.tolist()):
            return stock_metadata(num_draft_tokens, ends)
        return PlainStep(runner.query_start_loc.gpu[1 : len(ends) + 1] - 1)

    def sample(logits: Tensor, spec_decode_metadata: Any) -> Any:
        is_plain = isinstance(spec_decode_metadata, PlainStep)
        return stock_sample(logits, None if is_plain else spec_decode_metadata)

    runner._calc_spec_decode_metadata = metadata
    runner._sample = sample
    runner._get_spec_decode_draft_probs = draft_probs
    stock._get_logprobs_tensors = functools.partial(logprobs_tensors, stock)
    stock.sampler.register_forward_hook(on_sampled, with_kwargs=True)
    _wrap_rejection_sample()
    if torch.device(runner.device).type == "cpu":
        rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens


def logprobs_tensors(
    stock: Any,
    max_num_logprobs: int,
    metadata: Any,
    _logits: Tensor,
    target_logits: Tensor,
    bonus_logits: Tensor,
    sampled_token_ids: Tensor,
) -> LogprobsTensors:
    """What `RejectionSampler._get_logprobs_tensors` gives, computed once per position [N+B] and
    not once per place of the padded output [B*(L+1)].
    """
    at, places = emitted_rows(metadata.num_draft_tokens, target_logits.device)
    logits = torch.cat((target_logits, bonus_logits)).to(torch.float32)
    tokens = sampled_token_ids.flatten()[places].to(torch.int64).clamp_(min=0)
    values = logits if stock.is_logits_logprobs_mode else stock.sampler.compute_logprobs(logits)
    of_token = values.gather(1, tokens[:, None])
    ranks = (values >= of_token).sum(1)
    ids = tokens[:, None]
    if max_num_logprobs > 0:
        top = values.topk(max_num_logprobs, dim=1)
        ids, of_token = torch.cat((ids, top.indices), 1), torch.cat((of_token, top.values), 1)
    return LogprobsTensors(ids.to(torch.int32)[at], of_token[at], ranks[at])


def _wrap_rejection_sample() -> None:
    """Send sparse drafts to our sampler, everything else on to vLLM's. Idempotent."""
    stock: Callable[..., Tensor] = rejection_sampler.rejection_sample
    if hasattr(stock, "__wrapped__"):
        return

    @functools.wraps(stock)
    def rejection_sample(
        draft_token_ids: Tensor,
        num_draft_tokens: list[int],
        max_spec_len: int,
        cu_num_draft_tokens: Tensor,
        draft_probs: Tensor | DraftInFlight | None,
        *rest: Any,
        **options: Any,
    ) -> Tensor:
        if not isinstance(draft_probs, DraftInFlight):
            return stock(
                draft_token_ids,
                num_draft_tokens,
                max_spec_len,
                cu_num_draft_tokens,
                draft_probs,
                *rest,
                **options,
            )
        target_logits: Tensor = rest[0]
        bonus_token_ids: Tensor = rest[1]
        if len(draft_token_ids) == 0:
            return bonus_token_ids.view(-1, 1).to(torch.int32)
        verification = verify_drafts(
            draft_token_ids,
            num_draft_tokens,
            draft_probs.draft,
            target_logits,
            bonus_token_ids,
            rest[2],
        )
        draft_probs.listener.on_verified(verification)
        return verification.output_token_ids

    rejection_sampler.rejection_sample = rejection_sample


def _check_signature(
    owner: object, name: str, expected: tuple[str, ...], *, may_have_more: bool = False
) -> None:
    """Refuse a function that is not the one we stand in for.

    Args:
        owner: module or class that has it.
        name: of the function.
        expected: its parameters in their order.
        may_have_more: further ones may follow; ours passes them on.
    """
    function = getattr(owner, name, None)
    found = (
        () if function is None else tuple(inspect.signature(inspect.unwrap(function)).parameters)
    )
    if found == expected or (may_have_more and found[: len(expected)] == expected):
        return
    takes = "is missing" if function is None else f"takes ({', '.join(found)})"
    raise ConfigurationError(
        faults=[
            f"vllm {vllm.__version__}: {name} {takes}; the SRT drafter knows "
            f"({', '.join(expected)}), as in vllm "
            f"{_dotted(OLDEST_SUPPORTED)} to {_dotted(NEWEST_SUPPORTED)}"
        ]
    )


def _check_engine(runner: Any) -> None:
    """Refuse settings under which our verification would not be the one that runs."""
    faults = []
    method = getattr(runner.speculative_config, "rejection_sample_method", None)
    if method not in (None, "strict", "standard", "probabilistic"):
        faults.append(
            f"rejection_sample_method is {method!r}; allowed with the SRT drafter is the default"
        )
    if runner.vllm_config.parallel_config.pipeline_parallel_size > 1:
        size = runner.vllm_config.parallel_config.pipeline_parallel_size
        faults.append(f"pipeline_parallel_size is {size}; allowed with the SRT drafter is 1")
    if faults:
        raise ConfigurationError(faults=faults)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(str(part) for part in version)
