"""What is applied when: once, again when it is wanted otherwise or was changed by others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest

from srt_operator.backends.kubernetes_api import (
    KubernetesApi,
    KubernetesFenced,
    KubernetesRefused,
)
from srt_operator.cluster.resolution import Refused
from srt_operator.cluster.sayings import Sayings
from srt_operator.cluster.store import Store
from srt_operator.cluster.upkeep import Upkeep
from srt_operator.manifests.kubernetes.objects import Manifest


class PlayedApi:
    """Applies, as an API server that notes whose fields are whose."""

    def __init__(self) -> None:
        self.versions: Iterator[int] = iter(range(1, 100))
        self.applied: list[str] = []
        self.others: dict[str, Manifest] = {}
        """What others have, by kind."""
        self.refusal: KubernetesRefused | None = None
        self.applying: set[str] = set()
        self.at_once: list[set[str]] = []
        """What was being applied whenever something more was."""

    async def get(self, kind: str, *_: str) -> Manifest | None:
        assert kind != "Secret", "they may not be read"
        return self.others.get(kind)

    async def apply(self, manifest: Manifest) -> Manifest:
        if self.refusal is not None:
            raise self.refusal
        self.applying.add(manifest["kind"])
        self.at_once.append(set(self.applying))
        await asyncio.sleep(0)
        self.applying.remove(manifest["kind"])
        self.applied.append(manifest["kind"])
        ours = {"manager": "srt-operator", "operation": "Apply", "fieldsV1": {"f:spec": {}}}
        version = str(next(self.versions))
        known = {"resourceVersion": version, "uid": "u", "managedFields": [ours]}
        return manifest | {"metadata": manifest["metadata"] | known}


class Told:
    """Records events."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def event(self, manifest: Manifest, reason: str, message: str, *, is_bad: bool) -> None:
        assert (manifest["kind"], reason, is_bad) == ("RolloutPool", "PutBack", True)
        self.messages.append(message)


def thing(kind: str, digest: str = "1") -> dict[str, Any]:
    owner = {
        "apiVersion": "srt-rl.dev/v1alpha1",
        "kind": "RolloutPool",
        "name": "pool",
        "uid": "pool-uid",
        "controller": True,
    }
    annotations = {"srt-rl.dev/spec-hash": digest}
    metadata = {"name": "a", "namespace": "n", "annotations": annotations}
    return {"kind": kind, "metadata": metadata | {"ownerReferences": [owner]}}


@pytest.fixture
def scene() -> tuple[Upkeep, PlayedApi, Store, Told]:
    store, api, told = Store(), PlayedApi(), Told()
    pool = {"name": "pool", "namespace": "n", "resourceVersion": "1", "uid": "pool-uid"}
    store.put({"kind": "RolloutPool", "metadata": pool})
    upkeep = Upkeep(cast(KubernetesApi, api), store, cast(Sayings, told))
    return upkeep, api, store, told


Scene = tuple[Upkeep, PlayedApi, Store, Told]


async def test_it_is_applied_once_and_again_when_it_is_wanted_otherwise(scene: Scene) -> None:
    upkeep, api, _, told = scene
    for digest in ("1", "1", "2", "2"):
        await upkeep.ensure(thing("Service", digest))
    assert api.applied == ["Service"] * 2
    assert told.messages == []


async def test_it_is_put_back_when_a_field_of_ours_is_anothers(scene: Scene) -> None:
    upkeep, api, store, told = scene
    await upkeep.ensure(thing("Service"))
    there = store.get("Service", "n", "a")
    assert there is not None
    theirs = {"manager": "them", "operation": "Update", "fieldsV1": {"f:spec": {}}}
    status = there["metadata"]["managedFields"] + [theirs]
    store.put(there | {"metadata": there["metadata"] | {"resourceVersion": "20"}})
    await upkeep.ensure(thing("Service"))
    store.put(
        there | {"metadata": there["metadata"] | {"resourceVersion": "21", "managedFields": status}}
    )
    await upkeep.ensure(thing("Service"))
    assert api.applied == ["Service"], "what others have of their own is no concern"
    taken = {"resourceVersion": "22", "managedFields": [theirs]}
    store.put(there | {"metadata": there["metadata"] | taken})
    await upkeep.ensure(thing("Service"))
    assert api.applied == ["Service"] * 2
    told_once = "somebody changed Service a: it is again as this resource asks for"
    assert told.messages == [told_once]


async def test_a_secret_is_applied_again_when_its_values_are_others(scene: Scene) -> None:
    """Its digest says nothing of them."""
    upkeep, api, _, told = scene
    for text in ("3", "3", "9", "9"):
        await upkeep.ensure(thing("Secret") | {"stringData": {"steps": text}})
    assert api.applied == ["Secret"] * 2
    assert told.messages == []


async def test_what_is_not_read_is_applied_anew_when_in_doubt(scene: Scene) -> None:
    upkeep, api, _, told = scene
    for _ in range(2):
        await upkeep.ensure(thing("Secret"))
    assert api.applied == ["Secret"]
    upkeep.doubt()
    await upkeep.ensure(thing("Secret"))
    assert api.applied == ["Secret"] * 2
    assert told.messages == []


@pytest.mark.parametrize("owner", [None, "another-uid"])
@pytest.mark.parametrize("is_watched", [True, False])
async def test_what_is_not_its_own_is_left_alone(
    scene: Scene, owner: str | None, is_watched: bool
) -> None:
    upkeep, api, store, _ = scene
    theirs = thing("Service")
    [reference] = theirs["metadata"].pop("ownerReferences")
    if owner is not None:
        theirs["metadata"]["ownerReferences"] = [reference | {"uid": owner}]
    theirs["metadata"] |= {"resourceVersion": "1"}
    if is_watched:
        store.put(theirs)
    else:
        api.others["Service"] = theirs
    with pytest.raises(Refused, match=r"^Service a is there and is not this resource's own"):
        await upkeep.ensure(thing("Service"))
    assert api.applied == []


async def test_what_pods_use_is_applied_at_once_and_what_makes_them_afterwards(
    scene: Scene,
) -> None:
    upkeep, api, _, _ = scene
    wanted = [thing(kind) for kind in ("Secret", "Service", "StatefulSet")]
    await upkeep.ensure(*wanted)
    assert api.at_once == [{"Secret"}, {"Secret", "Service"}, {"StatefulSet"}]
    await upkeep.ensure(*wanted)
    assert api.applied == ["Secret", "Service", "StatefulSet"]


async def test_nothing_is_applied_beside_a_name_that_is_taken(scene: Scene) -> None:
    upkeep, api, _, _ = scene
    api.others["StatefulSet"] = thing("StatefulSet") | {"metadata": {"name": "a"}}
    with pytest.raises(Refused, match=r"^StatefulSet a is there and is not this resource's own"):
        await upkeep.ensure(thing("Service"), thing("StatefulSet"))
    assert api.applied == []


async def test_what_makes_pods_waits_until_all_that_they_use_is_taken(scene: Scene) -> None:
    upkeep, api, _, _ = scene
    api.refusal = KubernetesRefused(status=403, reason="exceeded quota")
    with pytest.raises(Refused, match=r"^Secret a: exceeded quota$"):
        await upkeep.ensure(thing("Secret"), thing("Service"), thing("StatefulSet"))
    api.refusal = None
    await upkeep.ensure(thing("Secret"), thing("Service"), thing("StatefulSet"))
    assert api.applied == ["Secret", "Service", "StatefulSet"]


async def test_what_the_api_server_does_not_take_is_said(scene: Scene) -> None:
    upkeep, api, _, _ = scene
    api.refusal = KubernetesRefused(status=422, reason="spec.replicas: must be at least 0")
    with pytest.raises(Refused, match=r"^Service a: spec.replicas: must be at least 0$") as caught:
        await upkeep.ensure(thing("Service"))
    assert (caught.value.reason, caught.value.missing) == ("NotAdmitted", "Ready")


async def test_a_replica_without_its_lease_writes_nothing() -> None:
    fenced = KubernetesApi(cast(Any, None)).fenced(lambda: False)
    with pytest.raises(KubernetesFenced):
        await fenced.delete("Pod", "n", "p")
