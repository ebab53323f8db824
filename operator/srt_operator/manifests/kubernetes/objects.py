"""Objects, their names, labels and owners. Pure.

* Names are made from the owner's, never generated: applying twice changes nothing.
* Every object is owned by a resource and goes with it.
* Secrets are derived from the operator's key, so nothing has to be read back.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from srt_operator.constants import API_VERSION, GROUP, Kind
from srt_operator.resource_parts import Part

Manifest = dict[str, Any]
Spec = TypeVar("Spec", bound=Part)

MANAGER: Final = "srt-operator"
LABEL_JOB: Final = f"{GROUP}/job-name"
LABEL_JOB_UID: Final = f"{GROUP}/job-uid"
LABEL_POOL: Final = f"{GROUP}/pool"
LABEL_CACHE: Final = f"{GROUP}/tree-cache"
LABEL_ROLE: Final = f"{GROUP}/role"
SPEC_HASH: Final = f"{GROUP}/spec-hash"
PORT_GATEWAY: Final = 8000
PORT_TREE_CACHE: Final = 8080
PORT_WEIGHTS: Final = 8090


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Generic[Spec]):
    """A custom resource as the API server has it."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    spec: Spec
    generation: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    owner_uid: str | None = None
    """Of the resource that made it; None: a user did."""

    @property
    def id(self) -> str:
        """Names what it has in Redis: its maker's, so that it survives being made anew."""
        return self.owner_uid or self.uid

    @property
    def job_labels(self) -> dict[str, str]:
        """Whose it is, for what is made from it."""
        return {k: v for k, v in self.labels.items() if k in (LABEL_JOB, LABEL_JOB_UID)}


def rollout_set(pool: str) -> str:
    """StatefulSet and Service of a pool; pods add their number."""
    return f"{pool}-rollout"


def cache_set(cache: str) -> str:
    """StatefulSet, Service and budget of a tree cache; pods add their number."""
    return f"{cache}-tree-cache"


def trainer_name(name: str) -> str:
    """Job of a job, and the Service that a pool's trainer serves weights under."""
    return f"{name}-trainer"


def secret_name(owner: Resource[Any], name: str) -> str:
    """Of an owner's Secret. What lies there under other names is never written: the operator may
    not read Secrets, so it could not tell whose they are.
    """
    return f"{name}-{owner.id[:8]}"


def host(service: str, namespace: str) -> str:
    """Name of a Service from any namespace."""
    return f"{service}.{namespace}.svc"


def labels(owner: Resource[Any], role: str, extra: Mapping[str, str]) -> dict[str, str]:
    """What an object and its pods are found by."""
    return {
        "app.kubernetes.io/name": f"srt-{role}",
        "app.kubernetes.io/instance": owner.name,
        "app.kubernetes.io/component": role,
        "app.kubernetes.io/part-of": "srt",
        "app.kubernetes.io/managed-by": MANAGER,
        LABEL_ROLE: role,
        **owner.job_labels,
        **extra,
    }


def manifest(
    owner: Resource[Any], kind: str, name: str, body: Mapping[str, Any], *, labels: dict[str, str]
) -> Manifest:
    """One object; ``kind`` is ``apiVersion/Kind``."""
    api_version, _, short_kind = kind.rpartition("/")
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    metadata = {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels,
        "annotations": {SPEC_HASH: digest},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": str(owner.kind),
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    return {"apiVersion": api_version, "kind": short_kind, "metadata": metadata, **body}


def headless_service(
    owner: Resource[Any],
    name: str,
    port: tuple[str, int],
    *,
    selector: Mapping[str, str],
    labels: dict[str, str],
    is_early: bool = False,
) -> Manifest:
    """A name for every pod. ``is_early``: also for those that are not ready."""
    port_name, number = port
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": is_early,
        "selector": dict(selector),
        "ports": [{"name": port_name, "port": number, "targetPort": number, "protocol": "TCP"}],
    }
    return manifest(owner, "v1/Service", name, {"spec": spec}, labels=labels)


def secret(
    owner: Resource[Any], name: str, values: Mapping[str, str], *, labels: dict[str, str]
) -> Manifest:
    """Files for pods. Its digest leaves the values out."""
    made = manifest(owner, "v1/Secret", name, {"type": "Opaque"}, labels=labels)
    return made | {"stringData": dict(values)}


def derived(key: bytes, purpose: str, resource_id: str) -> str:
    """A secret of one resource, the same whenever it is asked for."""
    return hmac.new(key, f"{purpose}:{resource_id}".encode(), hashlib.sha256).hexdigest()
