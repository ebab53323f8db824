"""What is kept of rollouts between sampling and learning.

* Only these records reach the policy update, fresh or read back from the journal: the same records
  give the same update, bit for bit.
* Token ids and log-probabilities are packed (little-endian int32 and float32).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One response as it came from the engines, over all attempts it took."""

    token_ids: list[int]
    log_probs: list[float]
    """Of the distribution the engine sampled from; as many as ``token_ids``."""
    finish_reason: str
    """``stop`` or ``length``."""
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_request_steps: int = 0
    """Decoding passes the request took part in; the first token of an attempt comes from
    prefill."""
    num_retries: int = 0
    """Attempts that gave nothing or were aborted."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One finished rollout."""

    rollout_id: str
    prompt_index: int
    """Row of the data set."""
    prompt_token_ids: bytes
    token_ids: bytes
    log_probs: bytes
    finish_reason: str
    num_draft_tokens: int
    num_accepted_tokens: int
    num_request_steps: int
    num_retries: int

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids) // 4

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) // 4

    def prompt_array(self) -> npt.NDArray[np.int32]:
        """[P]."""
        return np.frombuffer(self.prompt_token_ids, dtype="<i4")

    def token_array(self) -> npt.NDArray[np.int32]:
        """[T]."""
        return np.frombuffer(self.token_ids, dtype="<i4")

    def log_prob_array(self) -> npt.NDArray[np.float32]:
        """[T]."""
        return np.frombuffer(self.log_probs, dtype="<f4")


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, tag="srt-step/1"):
    """Everything the update of one step depends on, and what sampling it cost."""

    step: int
    rollouts: list[Rollout]
    """Group after group; the groups in the order of the step's prompts."""
    rewards: list[float | None]
    """One per rollout; None: the reward function could not score it."""
    rollout_seconds: float
    reward_seconds: float


def finished_rollout(
    generation: Generation, *, rollout_id: str, prompt_index: int, prompt_token_ids: Sequence[int]
) -> Rollout:
    """Pack a response into the record that is kept."""
    return Rollout(
        rollout_id=rollout_id,
        prompt_index=prompt_index,
        prompt_token_ids=np.asarray(prompt_token_ids, dtype="<i4").tobytes(),
        token_ids=np.asarray(generation.token_ids, dtype="<i4").tobytes(),
        log_probs=np.asarray(generation.log_probs, dtype="<f4").tobytes(),
        finish_reason=generation.finish_reason,
        num_draft_tokens=generation.num_draft_tokens,
        num_accepted_tokens=generation.num_accepted_tokens,
        num_request_steps=generation.num_request_steps,
        num_retries=generation.num_retries,
    )
