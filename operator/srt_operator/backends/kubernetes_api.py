"""The Kubernetes API as the operator uses it: a few verbs on plain objects.

* Every call has a time limit; refusals and absences are types, not status numbers.
* Applying is server-side, as the field manager ``srt-operator``, with force.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from srt_common.errors import SRTError
from srt_operator.constants import API_VERSION
from srt_operator.manifests.kubernetes.objects import MANAGER, Manifest

TIMEOUT_SECONDS: Final = 10.0
PAGE: Final = 500

PLURALS: Final[Mapping[str, str]] = {
    "SRTJob": "srtjobs",
    "RolloutPool": "rolloutpools",
    "TreeCache": "treecaches",
    "Pod": "pods",
    "Service": "services",
    "Secret": "secrets",
    "Event": "events",
    "StatefulSet": "statefulsets",
    "Job": "jobs",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Lease": "leases",
    "Deployment": "deployments",
    "Namespace": "namespaces",
    "Node": "nodes",
    "CustomResourceDefinition": "customresourcedefinitions",
    "SelfSubjectAccessReview": "selfsubjectaccessreviews",
}
API_VERSIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("SRTJob", "RolloutPool", "TreeCache"), API_VERSION),
    **dict.fromkeys(("Pod", "Service", "Secret", "Event", "Namespace", "Node"), "v1"),
    **dict.fromkeys(("StatefulSet", "Deployment"), "apps/v1"),
    "Job": "batch/v1",
    "PodDisruptionBudget": "policy/v1",
    "Lease": "coordination.k8s.io/v1",
    "CustomResourceDefinition": "apiextensions.k8s.io/v1",
    "SelfSubjectAccessReview": "authorization.k8s.io/v1",
}
_MALFORMED: Final = "failed to create typed patch object"
"""How a 500 begins that is a fault of the object: server-side apply could not read it."""
_TYPES: Final = {200: "object", 201: "object", 202: "object"}


class KubernetesError(SRTError):
    """The API server did not do what was asked."""


class KubernetesUnavailable(KubernetesError):
    """No answer, or none for now: a retry is safe."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"the API server does not answer: {reason}", reason=reason)
        self.reason = reason


class KubernetesRefused(KubernetesError):
    """It said no; ``reason`` is its own sentence. Trying again does not help by itself."""

    def __init__(self, *, status: int, reason: str) -> None:
        super().__init__(reason, status=status, reason=reason)
        self.status = status
        self.reason = reason


class KubernetesFenced(KubernetesError):
    """Nothing was asked: another replica may be acting."""

    def __init__(self) -> None:
        super().__init__("the lease may be another replica's by now: nothing is written")


class KubernetesConflict(KubernetesRefused):
    """Somebody else was first (409): look again."""


@dataclass(slots=True)
class Calls:
    """What a connection was used for, since the start."""

    number: int = 0
    answered_at: float | None = None
    """When the API server last answered anything, by the monotonic clock."""


class KubernetesApi:
    """One connection. Belongs to one event loop."""

    def __init__(
        self,
        api: client.ApiClient,
        *,
        calls: Calls | None = None,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._api = api
        self._may_write = may_write
        self.calls = calls or Calls()

    @classmethod
    async def connect(cls, *, context: str | None = None) -> Self:
        """As the pod's service account, else as a kubeconfig says.

        Raises:
            KubernetesUnavailable: neither is there.
        """
        settings = client.Configuration()
        try:
            if context is None and _is_in_cluster():
                config.load_incluster_config(client_configuration=settings)
            else:
                await config.load_kube_config(context=context, client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise KubernetesUnavailable(reason=str(error)) from error
        return cls(client.ApiClient(settings))

    def fenced(self, may_write: Callable[[], bool]) -> KubernetesApi:
        """The same connection, which reads always and writes as long as ``may_write`` says so;
        after that it raises KubernetesFenced.
        """
        return KubernetesApi(self._api, calls=self.calls, may_write=may_write)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._api.close()

    async def version(self) -> str:
        """Of the API server, such as ``v1.36.0``."""
        return str((await self._call("GET", "/version"))["gitVersion"])

    async def get(self, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """An object, or None; ``namespace`` None: of the cluster."""
        try:
            found: Manifest = await self._call("GET", _path(kind, namespace, name))
        except KubernetesRefused as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return found

    async def list(
        self, kind: str, namespace: str | None, *, labels: str = ""
    ) -> tuple[list[Manifest], str]:
        """Objects of a namespace or of all, and the version of the list."""
        query: dict[str, str] = {"limit": str(PAGE), "labelSelector": labels}
        found: list[Manifest] = []
        while True:
            page = await self._call("GET", _path(kind, namespace), query=query)
            found += [_typed(kind, item) for item in page["items"]]
            token = page["metadata"].get("continue")
            if not token:
                return found, page["metadata"]["resourceVersion"]
            query["continue"] = token

    async def apply(
        self, manifest: Manifest, *, subresource: str = "", is_dry_run: bool = False
    ) -> Manifest:
        """Create or change what ``manifest`` names; fields it leaves out are others'."""
        metadata = manifest["metadata"]
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"], subresource)
        query = {"fieldManager": MANAGER, "force": "true"} | _dry_run(is_dry_run)
        applied: Manifest = await self._call(
            "PATCH", path, query=query, body=manifest, content="application/apply-patch+yaml"
        )
        return applied

    async def merge(
        self,
        kind: str,
        namespace: str,
        name: str,
        change: Mapping[str, Any],
        *,
        subresource: str = "",
        is_dry_run: bool = False,
    ) -> None:
        """Change single fields of an object."""
        path, query = _path(kind, namespace, name, subresource), _dry_run(is_dry_run)
        content = "application/merge-patch+json"
        await self._call("PATCH", path, query=query, body=dict(change), content=content)

    async def create(self, manifest: Manifest, *, is_dry_run: bool = False) -> Manifest:
        """Raises KubernetesConflict: it is there."""
        path = _path(manifest["kind"], manifest.get("metadata", {}).get("namespace"))
        query = {"fieldValidation": "Strict"} | _dry_run(is_dry_run)
        made: Manifest = await self._call("POST", path, query=query, body=manifest)
        return made

    async def replace(self, manifest: Manifest) -> Manifest:
        """Raises KubernetesConflict: it changed since its resourceVersion."""
        metadata = manifest["metadata"]
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"])
        made: Manifest = await self._call("PUT", path, body=manifest)
        return made

    async def delete(
        self, kind: str, namespace: str, name: str, *, is_dry_run: bool = False
    ) -> None:
        """Delete, with all that it owns; what is not there is fine."""
        body: Manifest = {"propagationPolicy": "Background"}
        if is_dry_run:
            body["dryRun"] = ["All"]  # beside a body the server reads no options from the query
        try:
            await self._call("DELETE", _path(kind, namespace, name), body=body)
        except KubernetesRefused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def from_pod(self, namespace: str, pod: str, path: str) -> Any:
        """What a pod's first port answers to ``GET path`` as JSON, through the API server."""
        return await self._call("GET", _path("Pod", namespace, pod, f"proxy{path}"))

    async def log(
        self, namespace: str, pod: str, container: str, *, follows: bool
    ) -> AsyncIterator[bytes]:
        """A container's log, and what comes to it if it ``follows``."""
        query = [("container", container), ("follow", "true" if follows else "false")]
        try:
            answer = await self._api.call_api(
                _path("Pod", namespace, pod, "log"),
                "GET",
                query_params=query,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
            )
            if answer.status != 200:
                body = json.loads(await answer.read())
                raise KubernetesRefused(status=answer.status, reason=body["message"])
            async for chunk in answer.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise KubernetesUnavailable(reason=str(error)) from error

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content: str = "application/json",
    ) -> Any:
        if method != "GET" and not self._may_write():
            raise KubernetesFenced
        self.calls.number += 1
        try:
            answer = await self._api.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json"}
                | ({} if body is None else {"Content-Type": content}),
                body=body,
                response_types_map=_TYPES,
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=TIMEOUT_SECONDS,
            )
        except ApiException as error:
            translated = _translated(error)
            if isinstance(translated, KubernetesRefused):
                self.calls.answered_at = time.monotonic()
            raise translated from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise KubernetesUnavailable(reason=str(error) or type(error).__name__) from error
        self.calls.answered_at = time.monotonic()
        return answer


def default_namespace(context: str | None) -> str:
    """Of a kubeconfig's context. Raises KubernetesUnavailable."""
    try:
        contexts, current = config.list_kube_config_contexts()
    except (config.ConfigException, OSError) as error:
        raise KubernetesUnavailable(reason=str(error)) from error
    named = {found["name"]: found["context"] for found in contexts}
    chosen = current["context"] if context is None else named.get(context, {})
    return str(chosen.get("namespace") or "default")


def _is_in_cluster() -> bool:
    return Path("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()


def _path(kind: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    version = API_VERSIONS[kind]
    root = f"/api/{version}" if version == "v1" else f"/apis/{version}"
    inside = f"/namespaces/{namespace}" if namespace else ""
    return (
        root + inside + "".join(f"/{part}" for part in (PLURALS[kind], name, subresource) if part)
    )


def _dry_run(is_dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if is_dry_run else {}


def _typed(kind: str, item: Manifest) -> Manifest:
    """Items of a list do not say what they are."""
    return {"apiVersion": API_VERSIONS[kind], "kind": kind, **item}


def _translated(error: ApiException) -> KubernetesError:
    try:
        reason = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        reason = str(error.reason)
    status = int(error.status or 0)
    if reason.startswith(_MALFORMED):
        return KubernetesRefused(status=422, reason=reason)
    if status == 429 or status >= 500 or status == 0:
        return KubernetesUnavailable(reason=reason)
    kind = KubernetesConflict if status == 409 else KubernetesRefused
    return kind(status=status, reason=reason)
