"""Lists every watched kind where the operator looks after things, and notes where it may not.

* A namespace that was deleted, or whose rights were taken away, refuses (403). The others go on; it
  is asked again until it answers.
* An API server that starts may refuse for a moment, so what was seen there is kept for a while;
  then it is forgotten: nothing of it can be looked after.
* What is not completely known is not acted on: events of a namespace that has not been listed, or
  was forgotten, are to be passed over until it is listed. Who looks at a job without seeing its
  pods would take what they still use away from them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from srt_common.clock import Clock
from srt_operator.backends.kubernetes_api import KubernetesApi, KubernetesRefused
from srt_operator.cluster.store import WATCHED, Key, Store, key_of
from srt_operator.constants import Kind
from srt_operator.handlers import CHILDREN, SELECTOR

KEEP_SECONDS: Final = 60.0
"""What was seen in a namespace is forgotten when it has refused for so long."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Of a namespace."""

    since: float
    """Seconds, monotonic."""
    reason: str


class Listing:
    """Of the one replica that leads."""

    def __init__(
        self,
        api: KubernetesApi,
        store: Store,
        clock: Clock,
        *,
        namespaces: Sequence[str],
        observe_forbidden: Callable[[int], object],
    ) -> None:
        """``namespaces``: empty: all, as one; ``observe_forbidden``: gets how many refuse."""
        self._api = api
        self._store = store
        self._clock = clock
        self._namespaces: Sequence[str | None] = list(namespaces) or [None]
        self._observe_forbidden = observe_forbidden
        self._forbidden: dict[str | None, _Refusal] = {}
        self._unknown = set(self._namespaces)
        """Of which the store has nothing, or not all."""
        self._found: list[Key] = []
        """Keys that nobody has been told of."""

    def fault(self) -> str | None:
        """Why nothing at all may be listed; None: something may."""
        if len(self._forbidden) < len(self._namespaces):
            return None
        return f"resources cannot be listed: {next(iter(self._forbidden.values())).reason}"

    def knows(self, namespace: str) -> bool:
        """Whether the store has all of a namespace."""
        return self._unknown.isdisjoint((None, namespace))

    async def everything(self) -> list[Key]:
        """Take in all that is there; the resources to look at, those that are gone included.

        Raises:
            KubernetesError: the API server does not answer, or not about these kinds. What was
                found before that is told of next time.
        """
        return await self._list_all(self._namespaces)

    async def forbidden(self) -> list[Key]:
        """As `everything`, of namespaces that refused when they were last asked."""
        return await self._list_all(list(self._forbidden))

    async def _list_all(self, namespaces: Sequence[str | None]) -> list[Key]:
        for namespace in namespaces:
            await self._list(namespace)
        found, self._found = self._found, []
        return [key for key in found if key[0] in list(Kind)]

    async def _list(self, namespace: str | None) -> None:
        refused: dict[str, str] = {}
        for kind in WATCHED:
            labels = SELECTOR if kind in CHILDREN else ""
            try:
                found, version = await self._api.list(kind, namespace, labels=labels)
            except KubernetesRefused as error:
                if error.status != HTTPStatus.FORBIDDEN:
                    raise
                refused[kind] = error.reason
                continue
            self._found += self._store.replace(kind, namespace, found, version=version)
            self._found += map(key_of, found)
        if refused:
            self._note_refusal(namespace, refused)
        else:
            self._note_answer(namespace)
        self._observe_forbidden(len(self._forbidden))

    def _note_refusal(self, namespace: str | None, refused: Mapping[str, str]) -> None:
        """Forget a namespace that has refused its jobs for long; of one that refuses another kind
        the last that was seen is better than nothing.
        """
        now, reason = self._clock.monotonic(), next(iter(refused.values()))
        if namespace not in self._forbidden:
            self._forbidden[namespace] = _Refusal(now, reason)
            extra = {"namespace": namespace or "all", "reason": reason}
            _LOG.warning("a namespace is not looked after", extra=extra)
        is_long = now - self._forbidden[namespace].since >= KEEP_SECONDS
        if is_long and Kind.SRT_JOB in refused:
            self._unknown.add(namespace)
            self._found += self._store.forget(namespace)

    def _note_answer(self, namespace: str | None) -> None:
        self._unknown.discard(namespace)
        if self._forbidden.pop(namespace, None) is not None:
            extra = {"namespace": namespace or "all"}
            _LOG.warning("a namespace is looked after again", extra=extra)
