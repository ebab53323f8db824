"""What ``helm uninstall`` runs first: ends the operator and takes its finalizers off everything.

* Without it a job deleted after the uninstall would wait for ever for an operator that is gone.
* The operator is gone before the first finalizer is, so that it cannot put one back.
* Jobs and their pods stay, and what they have in Redis stays; deleting a job then deletes its pods.
* Running it twice does nothing more than running it once.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

FINALIZER: Final = "srt-rl.dev/cleanup"
GONE_WITHIN_SECONDS: Final = 60.0

_GROUP, _VERSION = "srt-rl.dev", "v1alpha1"
_PLURALS = ("srtjobs", "treecaches")
_MERGE_PATCH = "application/merge-patch+json"
_MAX_ATTEMPTS = 5
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


def release_finalizers(release: Release) -> int:
    """End the operator, then take the finalizer off; how many resources had it.

    Raises:
        ApiException: the API server refuses.
        TimeoutError: operator pods are still there after `GONE_WITHIN_SECONDS`.
    """
    _end_operator(release)
    custom = client.CustomObjectsApi()
    held = [(plural, found) for plural in _PLURALS for found in _resources(custom, release, plural)]
    num_released = sum(_release(custom, plural, found) for plural, found in held)
    _LOG.info("finalizers released", extra={"resources": num_released})
    return num_released


def without_finalizer(finalizers: Sequence[str]) -> list[str]:
    """The finalizers of others."""
    return [name for name in finalizers if name != FINALIZER]


def _end_operator(release: Release) -> None:
    try:
        client.AppsV1Api().patch_namespaced_deployment_scale(
            release.deployment, release.namespace, {"spec": {"replicas": 0}}
        )
    except ApiException as error:
        if error.status != 404:
            raise
    core, selector = client.CoreV1Api(), _pods_of(release)
    deadline = time.monotonic() + GONE_WITHIN_SECONDS
    while core.list_namespaced_pod(release.namespace, label_selector=selector).items:
        if time.monotonic() >= deadline:
            raise TimeoutError(f"operator pods still run after {GONE_WITHIN_SECONDS:.0f} s")
        time.sleep(1.0)


def _pods_of(release: Release) -> str:
    return f"app.kubernetes.io/component=operator,app.kubernetes.io/instance={release.name}"


def _resources(
    custom: client.CustomObjectsApi, release: Release, plural: str
) -> Iterator[dict[str, Any]]:
    """Every resource of one kind that the operator watched; none where its definition is gone."""
    try:
        if not release.watch_namespaces:
            yield from custom.list_cluster_custom_object(_GROUP, _VERSION, plural)["items"]
        for namespace in release.watch_namespaces:
            found = custom.list_namespaced_custom_object(_GROUP, _VERSION, namespace, plural)
            yield from found["items"]
    except ApiException as error:
        if error.status != 404:
            raise


def _release(custom: client.CustomObjectsApi, plural: str, found: dict[str, Any]) -> bool:
    """Whether the resource had our finalizer; somebody else's change in between is looked at."""
    metadata = found["metadata"]
    for attempt in range(_MAX_ATTEMPTS):
        finalizers = metadata.get("finalizers", [])
        if FINALIZER not in finalizers:
            return attempt > 0
        where = (_GROUP, _VERSION, metadata["namespace"], plural, metadata["name"])
        change = {
            "resourceVersion": metadata["resourceVersion"],
            "finalizers": without_finalizer(finalizers),
        }
        try:
            custom.patch_namespaced_custom_object(
                *where, {"metadata": change}, _content_type=_MERGE_PATCH
            )
        except ApiException as error:
            if error.status == 404:
                return True
            if error.status != 409:
                raise
            metadata = custom.get_namespaced_custom_object(*where)["metadata"]
        else:
            return True
    raise TimeoutError(f"{plural} {metadata['name']} changed {_MAX_ATTEMPTS} times in between")


def _arguments(words: Sequence[str] | None = None) -> Release:
    parser = argparse.ArgumentParser(prog="python -m srt_operator.finalizer_release")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--release", required=True)
    parser.add_argument("--deployment", required=True)
    parser.add_argument("--watch-namespaces", type=json.loads, default=[])
    given = parser.parse_args(words)
    watched = tuple(given.watch_namespaces)
    return Release(given.namespace, given.release, given.deployment, watched)


def main() -> None:
    """In a pod, with its service account."""
    logging.basicConfig(level=logging.INFO)
    config.load_incluster_config()
    release_finalizers(_arguments())


if __name__ == "__main__":
    main()
