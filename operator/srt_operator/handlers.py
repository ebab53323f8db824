"""Watches of the cluster through kopf: events of what we made and of our resources, nothing else.

* Low-level handlers only: kopf leaves no annotation and no finalizer on anything, and remembers no
  object: its copies of every object at every event cost more than what is done with them.
* What watches miss is made good by `Operator.resync`.
* A watch never gives up: kopf ends with the first one that does, with the others of that moment
  still there and deaf. A namespace that is deleted refuses its watches, and may come back.
* Watches have an event loop of their own: reading and handing on an event takes 1.5 ms, hundreds
  come at once, and each `await` of a look would wait for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import chain, repeat
from typing import Any, Final, Protocol, cast

import kopf

from srt_operator.backends.kubernetes_api import API_VERSIONS, PLURALS
from srt_operator.cluster.store import WATCHED
from srt_operator.event_loops import own_loop
from srt_operator.manifests.kubernetes.objects import MANAGER, Manifest

SELECTOR: Final = f"app.kubernetes.io/managed-by={MANAGER}"
"""Of objects that we make."""
_STARTER: Final = "kopf._core.reactor.running"
PAUSES: Final = (1.0, 2.0, 5.0, 15.0)
"""Seconds before each further try of a call that was refused or not answered."""
LAST_PAUSE: Final = 30.0
"""Seconds before all later ones."""
HUNG_SECONDS: Final = 20.0
"""A kopf that fails otherwise and cannot end by then takes the process with it."""
CHILDREN: Final = ("StatefulSet", "Job", "Pod", "Service", "PodDisruptionBudget")


class Listener(Protocol):
    """Who wants to know; called in its own event loop."""

    def hear(self, manifest: Manifest, is_gone: bool) -> None:
        """An object changed."""
        ...

    def hear_of_listing(self) -> None:
        """A watch listed anew: what went in between was not told."""
        ...


class _Across:
    """A listener in another event loop, told in order."""

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        """``loop``: the listener's."""
        self._listener = listener
        self._loop = loop

    def hear(self, manifest: Manifest, is_gone: bool) -> None:
        """An object changed."""
        self._loop.call_soon_threadsafe(self._listener.hear, manifest, is_gone)

    def hear_of_listing(self) -> None:
        """A watch listed anew."""
        self._loop.call_soon_threadsafe(self._listener.hear_of_listing)


@asynccontextmanager
async def watching(
    listener: Listener, *, namespaces: Sequence[str]
) -> AsyncIterator[asyncio.Task[None]]:
    """Tell of every change inside the block; the task ends when that fails. ``namespaces``: empty:
    all.
    """
    across, stop = _Across(listener, asyncio.get_running_loop()), asyncio.Event()
    async with own_loop("watches") as watches:
        task = asyncio.create_task(watches.run(_watch(across, namespaces, stop)), name="watches")
        try:
            yield task
        finally:  # kopf ends when it is asked to; cancelled again and again it does not
            watches.begin(stop.set)
            await asyncio.wait({task})


async def _watch(listener: Listener, namespaces: Sequence[str], stop: asyncio.Event) -> None:
    logging.getLogger(_STARTER).setLevel(logging.ERROR)  # it warns that signals are left to others
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    for kind in WATCHED:
        _register(registry, kind, listener)
    await kopf.operator(
        registry=registry,
        settings=_settings(),
        standalone=True,
        identity=cast(Any, MANAGER),  # else kopf asks for the user's name; a pod's user has none
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        stop_flag=stop,
    )


def _register(registry: kopf.OperatorRegistry, kind: str, listener: Listener) -> None:
    version = API_VERSIONS[kind]
    group, _, short_version = version.rpartition("/")

    async def on_event(*, event: Any, **_: Any) -> None:
        found = {"apiVersion": version, **dict(event["object"]), "kind": kind}
        listener.hear(found, event["type"] == "DELETED")
        if event["type"] is None:
            listener.hear_of_listing()

    kopf.on.event(group, short_version, PLURALS[kind], registry=registry, id=f"{kind}-changed")(
        on_event
    )


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    """As the pod's service account, else as a kubeconfig says."""
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)


class _NoMemory(kopf.DiffBaseStorage, kopf.ProgressStorage):
    """Of handlers that ask for no difference and make no progress."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing of an object is compared."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        """Nothing was kept."""

    def store(self, **_: Any) -> None:
        """Nothing is kept."""

    def purge(self, **_: Any) -> None:
        """There is nothing to forget."""

    def touch(self, **_: Any) -> None:
        """There is nothing to renew."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """There is nothing of ours in it."""
        return essence


class Pauses:
    """Between tries, without end: kopf counts the tries of what has a length, and gives up."""

    def __iter__(self) -> Iterator[float]:
        """From the first try on."""
        return chain(PAUSES, repeat(LAST_PAUSE))


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NoMemory()
    settings.persistence.progress_storage = _NoMemory()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.server_timeout = 270
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = Pauses()
    settings.process.ultimate_exiting_timeout = HUNG_SECONDS
    for kind in CHILDREN:
        group, _, version = API_VERSIONS[kind].rpartition("/")
        settings.watching.label_selectors[group, version, PLURALS[kind]] = SELECTOR
    return settings
