"""Pods: the suite's own part, what the site gives every pod, and what a user's template adds. Pure.

* The restricted Pod Security Standard, whatever defaults and templates say.
* The suite's variables win over the site's, the site's over a user's of the same name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import Field

from srt_operator import quantities
from srt_operator.resource_parts import Part, PodTemplate, ResourceRequirements

USER: Final = 65_532
HOME: Final = "/srt"
PRIVATE: Final = f"{HOME}/private"
REDIS_URL: Final = "$(REDIS_URL)"
REDIS_CA: Final = "redis-ca.crt"
"""Below `PRIVATE`, as the URLs for jobs that the chart makes name it."""
POD_NAME: Final = "$(POD_NAME)"
SMALL: Final = {"cpu": "50m", "memory": "128Mi"}
"""Requests of a container that waits most of the time."""
SCRATCH_LIMIT: Final = "8Gi"
"""Of ``/tmp``: what compilers and data sets leave."""

_SECURITY: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
_POD_SECURITY: Final = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}

Objects = Annotated[tuple[dict[str, Any], ...], Field(strict=False)]


class PodDefaults(Part):
    """What a site gives every pod of one kind; Kubernetes' own shapes, as the chart's values."""

    env: Objects = ()
    """Variables of every container."""
    volumes: Objects = ()
    """Any volumes, also such as users may not ask for."""
    volume_mounts: Objects = ()
    """Where every container finds them."""
    image_pull_secrets: Objects = ()
    """For every pod."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """For every pod."""
    tolerations: Objects = ()
    """For every pod."""
    resources: ResourceRequirements = ResourceRequirements()
    """Of the main container, where the template says nothing."""
    pod_labels: dict[str, str] = Field(default_factory=dict)
    """Beside the suite's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of a pod."""

    name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: tuple[str, int] | None = None
    probes: Mapping[str, Any] = field(default_factory=dict)
    mounts: Sequence[dict[str, Any]] = ()
    requests: Mapping[str, str] = field(default_factory=dict)
    """Kept free for it, as far as neither template nor site say anything of a resource."""
    drains_seconds: int = 0
    """Wait this long after a pod is told to stop, until nobody is sent here any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod before defaults and template."""

    containers: Sequence[Container]
    """The main one first."""
    volumes: Sequence[dict[str, Any]]
    grace_seconds: float
    pull_policy: str
    redis_secret: str
    """Secret with the key ``redis-url``, which `REDIS_URL` stands for."""
    restart_policy: str = "Always"


def pod_spec(pod: Pod, defaults: PodDefaults, template: PodTemplate) -> dict[str, Any]:
    """The whole of it."""
    user = template.model_dump(mode="json", by_alias=True, exclude_none=True)
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": pod.restart_policy,
        "terminationGracePeriodSeconds": math.ceil(pod.grace_seconds),
        "securityContext": _POD_SECURITY,
        "volumes": [
            {"name": "srt-tmp", "emptyDir": {"sizeLimit": SCRATCH_LIMIT}},
            *pod.volumes,
            *defaults.volumes,
            *user["volumes"],
        ],
        "containers": [
            _container(container, pod, defaults, user if number == 0 else None)
            for number, container in enumerate(pod.containers)
        ],
        "nodeSelector": {**user["nodeSelector"], **defaults.node_selector},
        "tolerations": [*defaults.tolerations, *user["tolerations"]],
        "imagePullSecrets": [*defaults.image_pull_secrets, *user["imagePullSecrets"]],
        "affinity": user["affinity"],
    }
    return {name: value for name, value in spec.items() if value not in ({}, [])}


def resources_of(defaults: PodDefaults, template: PodTemplate) -> dict[str, Any]:
    """Of the main container: the template's, else the site's."""
    merged = {
        "requests": {**defaults.resources.requests, **template.resources.requests},
        "limits": {**defaults.resources.limits, **template.resources.limits},
    }
    return {name: values for name, values in merged.items() if values}


def cpu_threads(resources: Mapping[str, Any]) -> int | None:
    """Threads of an engine that decodes on processors; None where it has an accelerator."""
    wanted = {**resources.get("requests", {}), **resources.get("limits", {})}
    if any("/" in name for name in wanted):
        return None
    return max(1, int(quantities.parse(wanted.get("cpu", "1"))))


def private_volume(secrets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Keys of Secrets as files that only the pod's user may read."""
    sources = [
        {"secret": {"name": name, "items": [_item(item) for item in keys]}}
        for name, keys in secrets.items()
    ]
    return {"name": "srt-private", "projected": {"defaultMode": 0o440, "sources": sources}}


def private_mount() -> dict[str, Any]:
    """Where containers find `private_volume`."""
    return {"name": "srt-private", "mountPath": PRIVATE, "readOnly": True}


def model_volume(uri: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Volumes, mounts and folder of a model."""
    scheme, _, path = uri.partition("://")
    if scheme != "pvc":
        return [], [], path
    claim, _, folder = path.partition("/")
    source = {"claimName": claim, "readOnly": True}
    mount: dict[str, Any] = {"name": "srt-model", "mountPath": f"{HOME}/model", "readOnly": True}
    if folder:
        mount["subPath"] = folder
    return [{"name": "srt-model", "persistentVolumeClaim": source}], [mount], f"{HOME}/model"


def http_probe(path: str, port: str, **settings: int) -> dict[str, Any]:
    """A probe over HTTP."""
    return {"httpGet": {"path": path, "port": port}, **settings}


def _item(item: str) -> dict[str, str]:
    key, _, path = item.partition(":")
    return {"key": key, "path": path or key}


def _container(
    what: Container, pod: Pod, defaults: PodDefaults, user: Mapping[str, Any] | None
) -> dict[str, Any]:
    given = [*(user["env"] if user else ()), *defaults.env]
    references = _references(pod)
    own = {"HOME": "/tmp", **what.environment}
    taken = {*own, *(reference["name"] for reference in references)}
    container: dict[str, Any] = {
        "name": what.name,
        "image": what.image,
        "imagePullPolicy": pod.pull_policy,
        "command": list(what.command),
        "env": [
            *references,
            *({e["name"]: e for e in given if e["name"] not in taken}.values()),
            *({"name": name, "value": value} for name, value in sorted(own.items())),
        ],
        "securityContext": _SECURITY,
        "volumeMounts": [
            {"name": "srt-tmp", "mountPath": "/tmp"},
            *what.mounts,
            *defaults.volume_mounts,
            *(user["volumeMounts"] if user else ()),
        ],
        **what.probes,
    }
    resources: dict[str, Any] = {}
    if user is not None:
        template = PodTemplate.model_validate({"resources": user["resources"]})
        resources = resources_of(defaults, template)
    if found := _with_requests(resources, what.requests):
        container["resources"] = found
    if what.port is not None:
        name, number = what.port
        container["ports"] = [{"name": name, "containerPort": number, "protocol": "TCP"}]
    if what.drains_seconds:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": what.drains_seconds}}}
    return container


def _with_requests(resources: dict[str, Any], requests: Mapping[str, str]) -> dict[str, Any]:
    """A limit alone is a request of its size: nothing is added to what is limited."""
    limited = resources.get("limits", {})
    own = {name: amount for name, amount in requests.items() if name not in limited}
    wanted = {**own, **resources.get("requests", {})}
    return {**resources, "requests": wanted} if wanted else resources


def _references(pod: Pod) -> list[dict[str, Any]]:
    """Variables that others name."""
    pod_name = {"fieldRef": {"fieldPath": "metadata.name"}}
    url = {"secretKeyRef": {"name": pod.redis_secret, "key": "redis-url"}}
    return [
        {"name": "POD_NAME", "valueFrom": pod_name},
        {"name": "REDIS_URL", "valueFrom": url},
    ]
