"""Job descriptions and rollouts for the trainer's tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srt_trainer.rollouts import Generation, Rollout, finished_rollout
from srt_trainer.settings import TrainerSettings, parse_settings


def job_document(folder: Path, **fields: Any) -> dict[str, Any]:
    """A small valid ``trainer.json`` whose files lie in ``folder``; ``fields`` replace its own."""
    document: dict[str, Any] = {
        "job": "tiny",
        "run_dir": str(folder / "run"),
        "model": {"path": str(folder / "model")},
        "dataset": {"uri": "reasoning-gym://chain_sum?seed=1&size=6&max_digits=1"},
        "reward": "reasoning-gym",
        "sampling": {"max_prompt_tokens": 128, "max_response_tokens": 24},
        "algorithm": {"steps": 4, "prompts_per_step": 2, "rollouts_per_prompt": 4},
        "optimizer": {"learning_rate": 1e-3},
        "storage": {
            "weights_dir": str(folder / "weights"),
            "checkpoints_dir": str(folder / "checkpoints"),
            "checkpoint_every_steps": 2,
        },
        "engines": [{"name": "engine-0", "url": "http://127.0.0.1:1"}],
        "max_concurrent_rollouts": 4,
        "num_threads": 1,
        "device": "cpu",
    }
    return {**document, **fields}


def job_settings(folder: Path, **fields: Any) -> TrainerSettings:
    """`job_document`, checked."""
    return parse_settings(job_document(folder, **fields))


def rollout(
    token_ids: Sequence[int],
    *,
    prompt: Sequence[int] = (5, 6, 7),
    log_probs: Sequence[float] | None = None,
    finish_reason: str = "stop",
    **counts: int,
) -> Rollout:
    """A finished rollout; without ``log_probs`` the sampler says -1 of every token."""
    return finished_rollout(
        Generation(
            token_ids=list(token_ids),
            log_probs=list(log_probs or [-1.0] * len(token_ids)),
            finish_reason=finish_reason,
            **counts,
        ),
        rollout_id="tiny/0/0/0",
        prompt_index=0,
        prompt_token_ids=prompt,
    )
