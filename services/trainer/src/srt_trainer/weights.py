"""Weights for the engines, on a file system that trainer and engines share.

* ``policy-000012/`` is whole when it is there, and stays until two newer ones are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from srt_trainer.durable_files import PART_SUFFIX
from srt_trainer.policy import Policy

KEPT_VERSIONS = 2


class WeightsFolder:
    """Writes policy versions below one folder, the engines' weights root."""

    def __init__(self, folder: Path, *, dtype: torch.dtype) -> None:
        self._folder = folder
        self._dtype = dtype
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, policy_version: int, policy: Policy) -> str:
        """Write the policy as ``policy_version``; its folder name, as engines are told it."""
        name = f"policy-{policy_version:06d}"
        part = self._folder / (name + PART_SUFFIX)
        for path in (part, self._folder / name):
            if path.exists():
                shutil.rmtree(path)
        policy.save_weights(part, dtype=self._dtype)
        part.rename(self._folder / name)
        self._prune(name)
        return name

    def _prune(self, newest: str) -> None:
        """Drop old versions, and those a run that was resumed further back had reached."""
        names = sorted(path.name for path in self._folder.glob("policy-*"))
        kept = [name for name in names if name <= newest and not name.endswith(PART_SUFFIX)]
        for name in set(names) - set(kept[-KEPT_VERSIONS:]):
            shutil.rmtree(self._folder / name)
