"""The one finalizer, and the way around it. Pure."""

from __future__ import annotations

from typing import Final

from srt_operator.constants import GROUP
from srt_operator.manifests.kubernetes.objects import Manifest

FINALIZER: Final = f"{GROUP}/cleanup"
SKIP: Final = f"{GROUP}/skip-cleanup"
"""Annotation; ``true``: delete without looking after what lies in Redis."""


def finalizers(manifest: Manifest) -> list[str]:
    """Of a resource."""
    return list(manifest["metadata"].get("finalizers", ()))


def is_skipped(manifest: Manifest) -> bool:
    """Whether somebody does not want the clean-up."""
    annotations: dict[str, str] = manifest["metadata"].get("annotations", {})
    return annotations.get(SKIP) == "true"
