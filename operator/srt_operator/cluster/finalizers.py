"""What metadata says: the one finalizer, the way around it, a job given up. Pure."""

from __future__ import annotations

from typing import Final

from srt_operator.constants import CANCELLED, GROUP
from srt_operator.manifests.kubernetes.objects import Manifest

FINALIZER: Final = f"{GROUP}/cleanup"
SKIP: Final = f"{GROUP}/skip-cleanup"
"""Annotation; ``true``: delete without looking after what lies in Redis."""


def finalizers(manifest: Manifest) -> list[str]:
    """Of a resource."""
    return list(manifest["metadata"].get("finalizers", ()))


def others(manifest: Manifest) -> list[str]:
    """Finalizers of a resource that are not ours."""
    return [name for name in finalizers(manifest) if name != FINALIZER]


def is_skipped(manifest: Manifest) -> bool:
    """Whether somebody does not want the clean-up."""
    return _is_annotated(manifest, SKIP)


def is_cancelled(manifest: Manifest) -> bool:
    """Whether a user gave the job up."""
    return _is_annotated(manifest, CANCELLED)


def _is_annotated(manifest: Manifest, name: str) -> bool:
    annotations: dict[str, str] = manifest["metadata"].get("annotations", {})
    return annotations.get(name) == "true"
