"""Before an uninstall the operator ends first; then its own finalizer goes, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from srt_operator.backends.kubernetes_api import (
    KubernetesApi,
    KubernetesConflict,
    KubernetesRefused,
)
from srt_operator.cluster.finalizers import FINALIZER
from srt_operator.finalizer_release import Release, release_finalizers
from srt_operator.manifests.kubernetes.objects import Manifest

RELEASE = Release("srt-system", "srt", "srt-operator", ())


class Api:
    """An API server with a few resources; the first ``num_conflicts`` changes come too late."""

    def __init__(self, *resources: Manifest, num_conflicts: int = 0) -> None:
        self.resources = list(resources)
        self.num_conflicts = num_conflicts
        self.calls: list[str] = []
        self.pods: list[Manifest] = []
        self.has_definitions = True
        self.forbidden: set[str | None] = set()

    async def list(
        self, kind: str, namespace: str | None, *, labels: str = ""
    ) -> tuple[list[Manifest], str]:
        self.calls.append(f"list {kind} {labels}".strip())
        if kind == "Pod":
            return self.pods, "1"
        if not self.has_definitions:
            raise KubernetesRefused(status=404, reason="no such resource")
        if namespace in self.forbidden:
            raise KubernetesRefused(status=403, reason=f"{kind} is forbidden")
        found = [one for one in self.resources if one["kind"] == kind]
        return [o for o in found if namespace in (None, o["metadata"]["namespace"])], "1"

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        where = (kind, namespace, name)
        return next((one for one in self.resources if key(one) == where), None)

    async def merge(
        self,
        kind: str,
        namespace: str,
        name: str,
        change: Mapping[str, Any],
        *,
        subresource: str = "",
    ) -> None:
        self.calls.append(f"merge {kind} {name} {subresource}".strip())
        if kind == "Deployment":
            return
        if self.num_conflicts > 0:
            self.num_conflicts -= 1
            raise KubernetesConflict(status=409, reason="it changed")
        (found,) = (one for one in self.resources if key(one) == (kind, namespace, name))
        found["metadata"]["finalizers"] = change["metadata"]["finalizers"]

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        self.calls.append(f"delete {kind} {namespace}/{name}")


def resource(kind: str, name: str, *finalizers: str, namespace: str = "team-a") -> Manifest:
    metadata = {"name": name, "namespace": namespace, "resourceVersion": "1"}
    return {"kind": kind, "metadata": metadata | {"finalizers": list(finalizers)}}


def key(one: Manifest) -> tuple[str, str, str]:
    return one["kind"], one["metadata"]["namespace"], one["metadata"]["name"]


def finalizers_of(api: Api) -> dict[str, list[str]]:
    return {o["metadata"]["name"]: o["metadata"]["finalizers"] for o in api.resources}


async def release(api: Api, what: Release = RELEASE) -> int:
    return await release_finalizers(cast(KubernetesApi, api), what)


async def test_only_our_finalizer_goes() -> None:
    api = Api(
        resource("SRTJob", "job", FINALIZER, "others/finalizer"),
        resource("TreeCache", "cache", FINALIZER),
        resource("SRTJob", "free"),
    )
    assert await release(api) == 2
    assert finalizers_of(api) == {"job": ["others/finalizer"], "cache": [], "free": []}


async def test_the_operator_has_ended_before_the_first_finalizer_goes() -> None:
    api = Api(resource("SRTJob", "job", FINALIZER))
    await release(api)
    labels = "app.kubernetes.io/component=operator,app.kubernetes.io/instance=srt"
    assert api.calls[:2] == ["merge Deployment srt-operator scale", f"list Pod {labels}"]
    assert not any(call.startswith("list Pod") for call in api.calls[2:])


async def test_what_the_operator_made_for_itself_goes_last() -> None:
    api = Api(resource("SRTJob", "job", FINALIZER))
    await release(api)
    assert api.calls[-2:] == [
        "delete Secret srt-system/srt-operator-key",
        "delete Lease srt-system/srt-operator",
    ]


async def test_twice_is_once() -> None:
    api = Api(resource("SRTJob", "job", FINALIZER))
    assert await release(api) == 1
    assert await release(api) == 0


async def test_a_change_in_between_is_looked_at_anew() -> None:
    api = Api(resource("SRTJob", "job", FINALIZER), num_conflicts=2)
    assert await release(api) == 1
    assert finalizers_of(api) == {"job": []}


async def test_endless_changes_end_with_the_servers_refusal() -> None:
    api = Api(resource("SRTJob", "job", FINALIZER), num_conflicts=99)
    with pytest.raises(KubernetesConflict):
        await release(api)


async def test_an_operator_of_some_namespaces_touches_no_others() -> None:
    api = Api(
        resource("SRTJob", "ours", FINALIZER, namespace="team-a"),
        resource("SRTJob", "theirs", FINALIZER, namespace="team-b"),
    )
    assert await release(api, Release("srt-system", "srt", "srt-operator", ("team-a",))) == 1
    assert finalizers_of(api)["theirs"] == [FINALIZER]


async def test_a_watched_namespace_that_was_deleted_is_passed_over() -> None:
    api = Api(resource("SRTJob", "ours", FINALIZER, namespace="team-b"))
    api.forbidden = {"team-a"}
    watched = Release("srt-system", "srt", "srt-operator", ("team-a", "team-b"))
    assert await release(api, watched) == 1
    assert api.calls[-1] == "delete Lease srt-system/srt-operator"


async def test_without_any_right_the_hook_fails() -> None:
    api = Api(resource("SRTJob", "job", FINALIZER))
    api.forbidden = {None}
    with pytest.raises(KubernetesRefused):
        await release(api)


async def test_without_definitions_there_is_nothing_to_do() -> None:
    api = Api()
    api.has_definitions = False
    assert await release(api) == 0
