"""Checks whether a cluster can run SRTJobs: asks its API server, as the caller.

* `examine` asks; what the answers mean is said by pure functions.
* What the caller may not read is said so, and is no failure.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from srt_operator.backends.kubernetes import seconds_of
from srt_operator.backends.kubernetes_api import (
    KubernetesApi,
    KubernetesRefused,
    KubernetesUnavailable,
)
from srt_operator.constants import API_VERSION, GROUP, Kind, Reason
from srt_operator.crds import DEFINITIONS, Definition, document
from srt_operator.doctor.base import Check, Level
from srt_operator.election import DURATION_SECONDS, LEASE
from srt_operator.manifests.kubernetes.objects import Manifest

MIN_VERSION: Final = (1, 33)
"""The chart's ``kubeVersion``."""
RECENT_SECONDS: Final = 600.0
POD_SECURITY: Final = "pod-security.kubernetes.io/enforce"
_CANNOT_PULL: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
)
_WANTED: Final = (
    ("get", GROUP, "srtjobs", ""),
    ("create", GROUP, "srtjobs", ""),
    ("patch", GROUP, "srtjobs", ""),
    ("delete", GROUP, "srtjobs", ""),
    ("list", "", "pods", ""),
    ("get", "", "pods", "log"),
)
"""Verb, group, resource, subresource: what the commands of `srt` do in a namespace."""

Finding = tuple[Level, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is examined."""

    api: KubernetesApi
    namespace: str
    """Where jobs are to run."""
    operator_namespace: str
    now: float
    """Seconds since the epoch."""


async def examine(place: Place) -> list[Check]:
    """Every check, in the order an administrator should mend things."""
    checks = []
    for what, look in _CHECKS:
        checks.append(await _checked(what, look, place))
        if what == "API server" and checks[-1].level is Level.FAIL:
            break
    return checks


async def _checked(what: str, look: Callable[[Place], Awaitable[Finding]], place: Place) -> Check:
    try:
        level, text = await look(place)
    except KubernetesRefused as error:
        level, text = Level.WARN, f"not seen: {error}; ask an administrator to run this"
    except KubernetesUnavailable as error:
        level, text = Level.FAIL, f"{error}; check the kubeconfig's context and the network"
    return Check(what, level, text)


async def _server(place: Place) -> Finding:
    return server(await place.api.version())


async def _definitions(place: Place) -> Finding:
    kind = "CustomResourceDefinition"
    found = [await place.api.get(kind, None, f"{d.plural}.{GROUP}") for d in DEFINITIONS]
    return definitions(dict(zip((d.kind for d in DEFINITIONS), found, strict=True)))


async def _leader(place: Place) -> Finding:
    where = place.operator_namespace
    return leader(await place.api.get("Lease", where, LEASE), where, place.now)


async def _redis(place: Place) -> Finding:
    events, _ = await place.api.list("Event", place.namespace)
    labels = "app.kubernetes.io/name=srt,app.kubernetes.io/component=redis"
    sets, _ = await place.api.list("StatefulSet", place.operator_namespace, labels=labels)
    return redis(events, sets, place.now)


async def _permissions(place: Place) -> Finding:
    refused = []
    for verb, group, resource, subresource in _WANTED:
        asked = {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked | {"namespace": place.namespace}},
        }
        answer = await place.api.create(review)
        if not answer["status"]["allowed"]:
            refused.append(f"{verb} {'/'.join(filter(None, (resource, subresource)))}")
    return permissions(refused, place.namespace)


async def _accelerators(place: Place) -> Finding:
    nodes, _ = await place.api.list("Node", None)
    return accelerators(nodes)


async def _pod_security(place: Place) -> Finding:
    return pod_security(await place.api.get("Namespace", None, place.namespace), place.namespace)


async def _images(place: Place) -> Finding:
    labels = "app.kubernetes.io/name=srt,app.kubernetes.io/component=operator"
    found, _ = await place.api.list("Deployment", place.operator_namespace, labels=labels)
    pods, _ = await place.api.list("Pod", place.namespace, labels=f"{GROUP}/role")
    return images(found, pods)


_CHECKS: Final[tuple[tuple[str, Callable[[Place], Awaitable[Finding]]], ...]] = (
    ("API server", _server),
    ("custom resources", _definitions),
    ("operator", _leader),
    ("Redis", _redis),
    ("your permissions", _permissions),
    ("GPUs", _accelerators),
    ("Pod Security", _pod_security),
    ("images", _images),
)


# -- what the answers mean
def server(version: str) -> Finding:
    """Of ``v1.36.1`` or the like."""
    numbers = re.match(r"v(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) >= MIN_VERSION:
        return Level.OK, version
    wanted = ".".join(map(str, MIN_VERSION))
    return Level.FAIL, f"{version}; upgrade it to {wanted} or newer"


def definitions(found: Mapping[Kind, Manifest | None]) -> Finding:
    """Whether our resources are there, and as this program knows them."""
    missing = [kind.plural for kind, manifest in found.items() if manifest is None]
    if missing:
        return Level.FAIL, f"{', '.join(missing)} missing; install the chart srt-crds"
    known = {definition.kind: definition for definition in DEFINITIONS}
    others = [k.plural for k, m in found.items() if m is None or not _is_known(m, known[k])]
    if others:
        text = f"{', '.join(others)} of another version; helm upgrade, or take that version's srt"
        return Level.WARN, text
    return Level.OK, f"{', '.join(kind.plural for kind in found)} of {API_VERSION}"


def _is_known(manifest: Manifest, definition: Definition) -> bool:
    there, ours = manifest["spec"]["versions"], document(definition)["spec"]["versions"]
    return bool([version["schema"] for version in there] == [v["schema"] for v in ours])


def leader(lease: Manifest | None, namespace: str, now: float) -> Finding:
    """Who acts, and whether it still does."""
    look = f"see kubectl -n {namespace} get pods"
    if lease is None:
        text = f"no Lease {LEASE} in {namespace}; install the chart srt, or name its namespace with"
        return Level.FAIL, f"{text} --operator-namespace"
    holder = lease["spec"].get("holderIdentity")
    age = now - seconds_of(lease["spec"].get("renewTime"), now)
    if not holder:
        return Level.FAIL, f"nobody leads in {namespace}; {look}"
    if age > DURATION_SECONDS:
        return Level.FAIL, f"{holder} led until {age:.0f} s ago; {look}"
    return Level.OK, f"{holder} leads, its Lease is {max(age, 0):.0f} s old"


def redis(events: Sequence[Manifest], sets: Sequence[Manifest], now: float) -> Finding:
    """What the operator said lately, and whether the release's own server is there."""
    for event in events:
        age = now - seconds_of(event.get("lastTimestamp"), now)
        if event.get("reason") == Reason.REDIS_UNAVAILABLE and age < RECENT_SECONDS:
            about = event["involvedObject"]
            text = f"{age:.0f} s ago of {about['kind']} {about['name']}: {event['message']}"
            return Level.FAIL, f"the operator said {text}"
    for stateful in sets:
        if not stateful.get("status", {}).get("readyReplicas"):
            name, where = stateful["metadata"]["name"], stateful["metadata"]["namespace"]
            return Level.FAIL, f"{name} is not ready; see kubectl -n {where} describe pod {name}-0"
    where = "the release's server is ready" if sets else "no server of a release is here to be seen"
    return Level.OK, f"{where}, the operator reports no trouble; helm test asks the server itself"


def permissions(refused: Sequence[str], namespace: str) -> Finding:
    """Of the caller."""
    if not refused:
        return Level.OK, f"all that srt needs in {namespace}"
    needed = {"get srtjobs", "create srtjobs"} & set(refused)
    text = f"you may not {', '.join(refused)} in {namespace}; ask for a RoleBinding to edit"
    return Level.FAIL if needed else Level.WARN, text


def accelerators(nodes: Sequence[Manifest]) -> Finding:
    """GPUs by their resources' names; any vendor's end alike."""
    found: dict[str, tuple[int, int]] = {}
    for node in nodes:
        for name, count in node.get("status", {}).get("allocatable", {}).items():
            if name.endswith("/gpu") and int(count):
                num_gpus, num_nodes = found.get(name, (0, 0))
                found[name] = (num_gpus + int(count), num_nodes + 1)
    if not found:
        text = f"none on {len(nodes)} nodes; install a device plugin, or take the profile cpu"
        return Level.WARN, text
    parts = [f"{gpus} {name} on {count} nodes" for name, (gpus, count) in sorted(found.items())]
    return Level.OK, ", ".join(parts)


def pod_security(namespace: Manifest | None, name: str) -> Finding:
    """Of the namespace of jobs; their pods keep to ``restricted``."""
    if namespace is None:
        return Level.FAIL, f"there is no namespace {name}; kubectl create namespace {name}"
    level = namespace["metadata"].get("labels", {}).get(POD_SECURITY)
    if level is None:
        return Level.WARN, f"not enforced; kubectl label namespace {name} {POD_SECURITY}=restricted"
    return Level.OK, f"{name} enforces {level}"


def images(operators: Sequence[Manifest], pods: Sequence[Manifest]) -> Finding:
    """What pods cannot pull, and whether the operator starts images of its own version."""
    for pod in pods:
        for status in pod.get("status", {}).get("containerStatuses", ()):
            reason = status.get("state", {}).get("waiting", {}).get("reason")
            if reason in _CANNOT_PULL:
                text = f"{pod['metadata']['name']} cannot pull {status['image']} ({reason})"
                return Level.FAIL, f"{text}; set image.registry and image.pullSecrets"
    named = sorted({name for operator in operators for name in _images_of(operator)})
    versions = {_version(name) for name in named} - {None}
    if len(versions) > 1:
        return Level.WARN, f"of several versions: {', '.join(named)}; helm upgrade"
    return Level.OK, f"{len(named)} named by the operator, all pods here have theirs"


def _images_of(operator: Manifest) -> list[str]:
    [container, *_] = operator["spec"]["template"]["spec"]["containers"]
    variables: Sequence[Mapping[str, Any]] = container.get("env", ())
    told = [v["value"] for v in variables if re.match(r"SRT_OPERATOR_IMAGE_(?!PULL)", v["name"])]
    return [container["image"], *told]


def _version(image: str) -> str | None:
    """Tag without its variant; None: named by a digest, or not at all."""
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    return tag.removesuffix("-gpu") or None
