"""Watches of the cluster through kopf: events of what we made and of our resources, nothing else.

* Low-level handlers only: kopf leaves no annotation and no finalizer on anything.
* What watches miss is made good by `Operator.resync`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import kopf

from srt_operator.backends.kubernetes_api import API_VERSIONS, PLURALS
from srt_operator.cluster.context import WATCHED
from srt_operator.manifests.kubernetes.objects import MANAGER, Manifest

SELECTOR: Final = f"app.kubernetes.io/managed-by={MANAGER}"
"""Of objects that we make."""
CHILDREN: Final = ("StatefulSet", "Job", "Pod")

Hear = Callable[[Manifest, bool], None]
"""Called with an object, and whether it is gone."""


async def watch(hear: Hear, *, namespaces: Sequence[str], stop: asyncio.Event) -> None:
    """Hear of every change until ``stop`` is set.

    Args:
        hear: called in this event loop.
        namespaces: empty: all.
        stop: ends the watches.
    """
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    for kind in WATCHED:
        _register(registry, kind, hear)
    await kopf.operator(
        registry=registry,
        settings=_settings(),
        standalone=True,
        identity=cast(Any, MANAGER),  # else kopf asks for the user's name; a pod's user has none
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        stop_flag=stop,
    )


def _register(registry: kopf.OperatorRegistry, kind: str, hear: Hear) -> None:
    version = API_VERSIONS[kind]
    group, _, short_version = version.rpartition("/")

    async def on_event(*, event: Any, **_: Any) -> None:
        found = {"apiVersion": version, **dict(event["object"]), "kind": kind}
        hear(found, event["type"] == "DELETED")

    kopf.on.event(group, short_version, PLURALS[kind], registry=registry, id=f"{kind}-changed")(
        on_event
    )


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    """As the pod's service account, else as a kubeconfig says."""
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.server_timeout = 270
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    for kind in CHILDREN:
        group, _, version = API_VERSIONS[kind].rpartition("/")
        settings.watching.label_selectors[group, version, PLURALS[kind]] = SELECTOR
    return settings
