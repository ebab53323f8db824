"""The store holds what is there; the queue hands out what is due; both as the operator needs it."""

from __future__ import annotations

import asyncio
from typing import Any

from srt_operator.cluster.interest import interested
from srt_operator.cluster.queue import WorkQueue
from srt_operator.cluster.store import Store


def thing(kind: str, name: str, version: int = 1, **metadata: Any) -> dict[str, Any]:
    found = {"name": name, "namespace": "n", "resourceVersion": str(version), "uid": f"{name}-uid"}
    return {"kind": kind, "metadata": found | metadata, "spec": {}}


def test_an_older_version_changes_nothing() -> None:
    store = Store()
    assert store.put(thing("Pod", "a", 5))
    assert not store.put(thing("Pod", "a", 4))
    assert not store.put(thing("Pod", "a", 5))
    assert store.put(thing("Pod", "a", 10))


def test_a_late_goodbye_does_not_take_its_successor_along() -> None:
    store = Store()
    store.put(thing("Pod", "a", 7, uid="second"))
    store.drop(thing("Pod", "a", 6, uid="first"))
    assert store.get("Pod", "n", "a") is not None
    store.drop(thing("Pod", "a", 8, uid="second"))
    assert store.get("Pod", "n", "a") is None


def test_a_listing_makes_good_what_watches_missed() -> None:
    store = Store()
    for name in ("a", "b"):
        store.put(thing("Pod", name))
    store.put(thing("Job", "a"))
    listed = [thing("Pod", "b"), thing("Pod", "c")]
    assert store.replace("Pod", None, listed, version="9") == [("Pod", "n", "a")]
    assert [pod["metadata"]["name"] for pod in store.of_kind("Pod")] == ["b", "c"]
    assert store.get("Job", "n", "a") is not None
    assert store.replace("Pod", "elsewhere", [], version="9") == []


def test_what_a_watch_tells_of_a_later_time_outlives_a_listing() -> None:
    store = Store()
    store.put(thing("Pod", "made", 12))
    store.put(thing("Pod", "gone", 5))
    store.drop(thing("Pod", "gone", 11))
    listed = [thing("Pod", "gone", 5)]
    assert store.replace("Pod", None, listed, version="10") == []
    assert [pod["metadata"]["name"] for pod in store.of_kind("Pod")] == ["made"]
    assert not store.put(thing("Pod", "gone", 6))
    assert store.put(thing("Pod", "gone", 13))


def test_a_change_concerns_owners_and_whoever_refers_to_them() -> None:
    store = Store()
    job = thing("SRTJob", "user") | {"spec": {"rollout": {"poolRef": {"name": "pool"}}}}
    store.put(job)
    store.put(thing("RolloutPool", "pool") | {"spec": {"treeCacheRef": {"name": "trees"}}})
    pod = thing("Pod", "pool-rollout-0", labels={"srt-rl.dev/pool": "pool"})
    assert interested(pod, store) == {("RolloutPool", "n", "pool"), ("SRTJob", "n", "user")}
    cache = thing("TreeCache", "trees")
    assert ("RolloutPool", "n", "pool") in interested(cache, store)
    owner = {"apiVersion": "srt-rl.dev/v1alpha1", "kind": "SRTJob", "name": "other"}
    assert interested(thing("Job", "x", ownerReferences=[owner]), store) == {
        ("SRTJob", "n", "other")
    }


async def test_a_key_is_handed_out_once_however_often_it_was_added() -> None:
    queue = WorkQueue[str]()
    for item in ("a", "b", "a"):
        queue.add(item)
    assert [await queue.take(), await queue.take()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_that_is_worked_on_waits_for_the_end_of_that() -> None:
    queue = WorkQueue[str]()
    queue.add("a")
    await queue.take()
    queue.add("a")
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    queue.done("a")
    assert await asyncio.wait_for(waiting, 1.0) == "a"


async def test_of_two_times_the_earlier_one_counts() -> None:
    queue = WorkQueue[str]()
    queue.add("a", after=60.0)
    queue.add("a", after=0.01)
    queue.add("a", after=60.0)
    assert await asyncio.wait_for(queue.take(), 1.0) == "a"


async def test_a_wait_is_counted_from_when_a_key_is_due_until_it_is_taken() -> None:
    waits: list[float] = []
    queue = WorkQueue[str](observe_wait=waits.append)
    queue.add("a")
    await asyncio.sleep(0.05)
    queue.add("a")
    queue.add("b", after=0.02)
    await queue.take()
    await queue.take()
    assert 0.05 <= waits[0] < 1.0, "from the first time it was added"
    assert waits[1] < 0.05, "not from when it was planned"
