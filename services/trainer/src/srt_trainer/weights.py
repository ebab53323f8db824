"""Weights for the engines, in folders that engines read or are served (`weights_server`).

* ``policy-000012/`` is whole when it is there, and stays until two newer ones are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from srt_common.messages.rollouts import WeightUpdate
from srt_common.messages.weights import weights_url
from srt_trainer.durable_files import PART_SUFFIX
from srt_trainer.policy import Policy

KEPT_VERSIONS = 2


def folder_name(policy_version: int) -> str:
    """Of a policy version, below the weights folder."""
    return f"policy-{policy_version:06d}"


class WeightsFolder:
    """Writes policy versions below one folder: the engines' weights root, or what is served.

    Args:
        base_url: where engines fetch them; None: they share the folder.
    """

    def __init__(self, folder: Path, *, dtype: torch.dtype, base_url: str | None) -> None:
        self._folder = folder
        self._dtype = dtype
        self._base_url = base_url
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, policy_version: int, policy: Policy) -> WeightUpdate:
        """Write the policy as ``policy_version``; what engines are told of it."""
        name = folder_name(policy_version)
        part = self._folder / (name + PART_SUFFIX)
        for path in (part, self._folder / name):
            if path.exists():
                shutil.rmtree(path)
        policy.save_weights(part, dtype=self._dtype)
        part.rename(self._folder / name)
        self._prune(name)
        if self._base_url is None:
            return WeightUpdate(path=name, policy_version=policy_version)
        url = weights_url(self._base_url, policy_version)
        return WeightUpdate(url=url, policy_version=policy_version)

    def _prune(self, newest: str) -> None:
        """Drop old versions, and those a run that was resumed further back had reached."""
        names = sorted(path.name for path in self._folder.glob("policy-*"))
        kept = [name for name in names if name <= newest and not name.endswith(PART_SUFFIX)]
        for name in set(names) - set(kept[-KEPT_VERSIONS:]):
            shutil.rmtree(self._folder / name)
