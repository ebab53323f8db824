"""The policy as it was after a number of steps, complete enough to go on exactly.

``<folder>/step-000012/``: ``model.safetensors``, ``optimizer.safetensors`` (AdamW's moments by
parameter name, torch's random state), ``state.json``. Written whole or not at all; data only, no
pickle.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import msgspec
import torch
from safetensors.torch import load_file, load_model, save_file, save_model

from srt_trainer.durable_files import PART_SUFFIX, durable_folder
from srt_trainer.policy import Policy

RANDOM_STATE: Final = "random_state"


class CheckpointState(msgspec.Struct, frozen=True, kw_only=True, tag="srt-checkpoint/1"):
    """``state.json``."""

    step: int
    """Steps finished: the next one to do."""
    num_updates: int


class Checkpoints:
    """The newest checkpoints of a run, in one folder."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, policy: Policy) -> None:
        """Write the policy after ``step`` finished steps, then forget the oldest checkpoints."""
        state = CheckpointState(step=step, num_updates=policy.num_updates)
        with durable_folder(self._folder / f"step-{step:06d}") as folder:
            save_model(policy.model, str(folder / "model.safetensors"))
            save_file(_optimizer_tensors(policy), folder / "optimizer.safetensors")
            (folder / "state.json").write_bytes(msgspec.json.encode(state))
        for path in self._paths()[: -self._keep]:
            shutil.rmtree(path)

    def restore(self, policy: Policy) -> int:
        """Put the newest checkpoint into a fresh policy; returns its finished steps, 0 without
        any.
        """
        paths = self._paths()
        if not paths:
            return 0
        newest = paths[-1]
        state = msgspec.json.decode((newest / "state.json").read_bytes(), type=CheckpointState)
        load_model(policy.model, newest / "model.safetensors", device=str(policy.model.device))
        _restore_optimizer(policy, load_file(newest / "optimizer.safetensors"))
        policy.num_updates = state.num_updates
        return state.step

    def _paths(self) -> list[Path]:
        """Oldest first."""
        paths = self._folder.glob("step-*")
        return sorted(path for path in paths if path.suffix != PART_SUFFIX)


def _optimizer_tensors(policy: Policy) -> dict[str, torch.Tensor]:
    tensors = {RANDOM_STATE: torch.get_rng_state()}
    for name, parameter in policy.model.named_parameters():
        for key, value in policy.optimizer.state[parameter].items():
            tensors[f"{key}:{name}"] = value.contiguous()
    return tensors


def _restore_optimizer(policy: Policy, tensors: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(tensors.pop(RANDOM_STATE))
    parameters = dict(policy.model.named_parameters())
    for label, value in tensors.items():
        key, name = label.split(":", maxsplit=1)
        parameter = parameters[name]
        place = value if key == "step" else value.to(parameter.device)
        policy.optimizer.state[parameter][key] = place
