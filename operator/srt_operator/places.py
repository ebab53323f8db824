"""What a job may ask for on this machine, and what in a cluster. Pure.

* A fault is a sentence: the field, its value, what is allowed.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from srt_operator.resources import SRTJobSpec


def local_faults(spec: SRTJobSpec) -> list[str]:
    """What keeps a job from running on this machine."""
    return [
        f"{field} is {value!r}: allowed is {allowed}, for a local run has no cluster to look in"
        for field, value, allowed in (
            ("spec.rollout.poolRef", spec.rollout.pool_ref, "spec.rollout.template"),
            ("spec.treeCache.cacheRef", spec.tree_cache.cache_ref, "spec.treeCache.template"),
            (
                "spec.model.uri",
                spec.model.uri if spec.model.uri.startswith("pvc://") else None,
                "file://PATH or hf://ORGANISATION/NAME",
            ),
        )
        if value is not None
    ]


def cluster_faults(spec: SRTJobSpec, *, file_roots: Sequence[str]) -> list[str]:
    """What keeps a job from running in a cluster."""
    faults = list(_files(spec, file_roots))
    if spec.tree_cache.template is not None and spec.tree_cache.template.redis is not None:
        faults.append(
            "spec.treeCache.template.redis is set: allowed is to leave it out, for in a cluster "
            "the operator's server is used"
        )
    path = spec.storage.path
    if path.startswith("/") or ".." in path.split("/"):
        faults.append(
            f"spec.storage.path is {path!r}: allowed in a cluster is a path below the claim's root"
        )
    return faults


def model_faults(uri: str, *, file_roots: Sequence[str]) -> list[str]:
    """What keeps a model from being found in a cluster."""
    scheme, _, path = uri.partition("://")
    if scheme == "hf":
        return [
            f"spec.model.uri is {uri!r}: allowed in a cluster is file://PATH or pvc://CLAIM/PATH, "
            "for nothing is fetched from a hub there"
        ]
    if scheme == "pvc":
        claim, _, folder = path.partition("/")
        if claim and ".." not in folder.split("/"):
            return []
        return [f"spec.model.uri is {uri!r}: allowed is pvc://CLAIM/PATH without '..'"]
    return list(_below_roots("spec.model.uri", uri, file_roots))


def _files(spec: SRTJobSpec, file_roots: Sequence[str]) -> Iterator[str]:
    yield from model_faults(spec.model.uri, file_roots=file_roots)
    uris = {"spec.dataset.uri": spec.dataset.uri}
    if spec.evaluation is not None:
        uris["spec.evaluation.uri"] = spec.evaluation.uri
    for field, uri in uris.items():
        if uri.startswith("file://"):
            yield from _below_roots(field, uri, file_roots)


def _below_roots(field: str, uri: str, file_roots: Sequence[str]) -> Iterator[str]:
    """The path as it will be opened: decoded; links in it are the trainer's to follow."""
    path = posixpath.normpath(unquote(uri.removeprefix("file://").partition("?")[0]))
    if not any(path.startswith(root.rstrip("/") + "/") for root in file_roots):
        roots = " or ".join(file_roots)
        yield f"{field} is {uri!r}: allowed in a cluster is file:// below {roots}"
