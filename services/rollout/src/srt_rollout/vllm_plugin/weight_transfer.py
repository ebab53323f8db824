"""Weights from a shared filesystem: a backend for vLLM's own weight-update routes.

* Reads safetensors only, from a folder below the root given at init; never follows a link out of
  it.
* On CPU re-packs linear layers that vLLM's reload leaves stale (tied ``lm_head``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from srt_common.errors import ConfigurationError


@dataclass
class SharedFilesystemInit(WeightTransferInitInfo):
    """Body of ``/init_weight_transfer_engine``."""

    root: str = ""
    """Absolute folder that every update lies below."""


@dataclass
class SharedFilesystemUpdate(WeightTransferUpdateInfo):
    """Body of ``/update_weights``."""

    path: str = ""
    """Folder relative to the root with ``*.safetensors``."""


class SharedFilesystemEngine(WeightTransferEngine[SharedFilesystemInit, SharedFilesystemUpdate]):
    """Loads whole checkpoints in Hugging Face layout; each rank reads what it needs of the same
    files.
    """

    init_info_cls = SharedFilesystemInit
    update_info_cls = SharedFilesystemUpdate

    def init_transfer_engine(self, init_info: SharedFilesystemInit) -> None:
        root = Path(init_info.root)
        if not root.is_absolute() or not root.is_dir():
            raise ConfigurationError(
                faults=[
                    f"root is {init_info.root!r}; allowed is an absolute path of an existing folder"
                ]
            )
        self._root = root.resolve()

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: SharedFilesystemUpdate) -> None:
        files = weight_files(self._root, update_info.path)
        self.model.load_weights(_tensors(files))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            _repack_linear_layers(self.model)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


def weight_files(root: Path, path: str) -> list[Path]:
    """Safetensors files of an update, sorted.

    Raises:
        ConfigurationError: the folder is not below ``root`` once links are resolved, or holds no
        such file.
    """
    folder = (root / path).resolve()
    if not folder.is_relative_to(root) or folder == root:
        raise ConfigurationError(
            faults=[f"path is {path!r}; allowed are folders below the weights root"]
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files or not all(file.resolve().is_relative_to(root) for file in files):
        raise ConfigurationError(
            faults=[
                f"path is {path!r}; allowed are folders that hold safetensors files of their own"
            ]
        )
    return files


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 -- safe_open is no mapping
                yield name, tensors.get_tensor(name)


def _repack_linear_layers(model: torch.nn.Module) -> None:
    """Pack anew what still has its plain weight: reload forgets layers that share it (tied
    embeddings).
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    for module in model.modules():
        weight = getattr(module, "weight", None)
        is_plain = weight is not None and weight.dim() == 2 and weight.numel() > 0
        if is_plain and hasattr(module, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
