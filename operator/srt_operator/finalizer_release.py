"""What ``helm uninstall`` runs first: ends the operator and takes its finalizers off everything.

* Without it a job deleted after the uninstall would wait for ever for an operator that is gone.
* The operator is gone before the first finalizer is, so that it cannot put one back.
* What the operator made for itself goes too: its key and its lease.
* A watched namespace that was deleted, or in which the hook has no rights any more, is passed over.
* Jobs and their pods stay, and what they have in Redis stays; deleting a job then deletes its pods.
* Running it twice does nothing more than running it once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from srt_operator.backends.kubernetes_api import (
    KubernetesApi,
    KubernetesConflict,
    KubernetesRefused,
)
from srt_operator.cluster.finalizers import finalizers, others
from srt_operator.manifests.kubernetes.objects import Manifest

GONE_WITHIN_SECONDS: Final = 60.0
MAX_ATTEMPTS: Final = 5
KINDS: Final = ("SRTJob", "TreeCache")
LEFT_BEHIND: Final = (("Secret", "srt-operator-key"), ("Lease", "srt-operator"))
"""Made by the operator itself, so that helm does not know them."""
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Release:
    """What is being uninstalled."""

    namespace: str
    name: str
    """Label ``app.kubernetes.io/instance`` of its pods."""
    deployment: str
    """Of the operator."""
    watch_namespaces: tuple[str, ...]
    """Empty: all."""


async def release_finalizers(api: KubernetesApi, release: Release) -> int:
    """End the operator, take the finalizer off, remove what the operator made for itself.

    Returns:
        How many resources had the finalizer.

    Raises:
        KubernetesError: the API server refuses or does not answer.
        TimeoutError: operator pods are still there after `GONE_WITHIN_SECONDS`.
    """
    await _end_operator(api, release)
    num_released = 0
    for kind in KINDS:
        for namespace in release.watch_namespaces or (None,):
            for found in await _resources(api, kind, namespace):
                num_released += await _release(api, found)
    for kind, name in LEFT_BEHIND:
        await api.delete(kind, release.namespace, name)
    _LOG.info("finalizers released", extra={"resources": num_released})
    return num_released


async def _end_operator(api: KubernetesApi, release: Release) -> None:
    await _unless_gone(
        api.merge(
            "Deployment",
            release.namespace,
            release.deployment,
            {"spec": {"replicas": 0}},
            subresource="scale",
        )
    )
    labels = f"{LABEL_COMPONENT}=operator,{LABEL_INSTANCE}={release.name}"
    async with asyncio.timeout(GONE_WITHIN_SECONDS):
        while (await api.list("Pod", release.namespace, labels=labels))[0]:  # noqa: ASYNC110
            await asyncio.sleep(1.0)


async def _resources(api: KubernetesApi, kind: str, namespace: str | None) -> list[Manifest]:
    """Every resource of one kind; none where its definition is gone, or the one namespace."""
    try:
        found, _ = await api.list(kind, namespace)
    except KubernetesRefused as error:
        is_passed_over = namespace is not None and error.status == HTTPStatus.FORBIDDEN
        if error.status != HTTPStatus.NOT_FOUND and not is_passed_over:
            raise
        extra = {"kind": kind, "namespace": namespace or "all", "reason": error.reason}
        told = "passed over, finalizers there stay" if is_passed_over else "not defined"
        _LOG.warning(told, extra=extra)
        return []
    return found


async def _release(api: KubernetesApi, found: Manifest) -> bool:
    """Whether the resource had our finalizer. What somebody changes in between is looked at anew.

    Raises:
        KubernetesConflict: it changed in between too often.
    """
    kind, where = found["kind"], (found["metadata"]["namespace"], found["metadata"]["name"])
    for attempt in range(MAX_ATTEMPTS):
        kept = others(found)
        if len(kept) == len(finalizers(found)):
            return False
        version = found["metadata"]["resourceVersion"]
        change = {"metadata": {"resourceVersion": version, "finalizers": kept}}
        try:
            await _unless_gone(api.merge(kind, *where, change))
        except KubernetesConflict:
            if attempt == MAX_ATTEMPTS - 1:
                raise
            again = await api.get(kind, *where)
            if again is None:
                return False
            found = again
        else:
            return True
    return False


async def _unless_gone(call: Awaitable[None]) -> None:
    try:
        await call
    except KubernetesRefused as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise


def _arguments(words: Sequence[str] | None = None) -> Release:
    parser = argparse.ArgumentParser(prog="python -m srt_operator.finalizer_release")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--release", required=True)
    parser.add_argument("--deployment", required=True)
    parser.add_argument("--watch-namespaces", type=json.loads, default=[])
    given = parser.parse_args(words)
    watched = tuple(given.watch_namespaces)
    return Release(given.namespace, given.release, given.deployment, watched)


async def _run(release: Release) -> None:
    api = await KubernetesApi.connect()
    try:
        await release_finalizers(api, release)
    finally:
        await api.close()


def main() -> None:
    """In a pod, with its service account."""
    logging.basicConfig(level=logging.INFO)
    asyncio.run(_run(_arguments()))


if __name__ == "__main__":
    main()
