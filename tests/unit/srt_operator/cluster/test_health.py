"""A replica is ready when it can do its part, and says in a sentence when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from srt_operator.backends.kubernetes_api import Calls, KubernetesRefused
from srt_operator.cluster import operator as operator_module
from srt_operator.cluster.companions import Companions
from srt_operator.cluster.context import Context
from srt_operator.cluster.listing import Listing
from srt_operator.cluster.operator import STUCK_SECONDS, Operator
from srt_operator.cluster.probes import SILENT_SECONDS, Health
from srt_operator.cluster.queue import WorkQueue
from srt_operator.cluster.sayings import Sayings
from srt_operator.cluster.store import Key, Store
from srt_operator.cluster.upkeep import Upkeep
from support.replicas import ManualClock

LATER = 10**9
CACHE: dict[str, Any] = {
    "kind": "TreeCache",
    "metadata": {"name": "trees", "namespace": "n", "resourceVersion": "7", "uid": "u"},
    "spec": {},
}


class PlayedApi:
    """Lists one job, or refuses to."""

    def __init__(self) -> None:
        self.is_refusing = True
        self.num_lists = 0

    async def list(
        self, kind: str, _namespace: str | None, **_: str
    ) -> tuple[list[dict[str, Any]], str]:
        self.num_lists += 1
        if self.is_refusing:
            raise KubernetesRefused(status=403, reason="srtjobs is forbidden")
        metadata = {"name": "job", "namespace": "n", "resourceVersion": "1", "uid": "u"}
        job = {"kind": kind, "metadata": metadata, "spec": {"rollout": {}, "treeCache": {}}}
        return ([job] if kind == "SRTJob" else []), "1"


class Hanging:
    """A controller whose looks do not come back."""

    async def reconcile(self, _namespace: str, _name: str) -> float | None:
        await asyncio.sleep(LATER)
        return None


@pytest.fixture
def api() -> PlayedApi:
    return PlayedApi()


def context_of(api: PlayedApi, clock: ManualClock) -> Context:
    given, sayings = cast(Any, None), Sayings(cast(Any, api), clock, "a")
    return Context(
        api=cast(Any, api),
        store=Store(),
        upkeep=Upkeep(cast(Any, api), Store(), sayings),
        queue=WorkQueue[Key](),
        sayings=sayings,
        cluster=given,
        clock=clock,
        companions=Companions(given),
    )


def operator_of(context: Context) -> Operator:
    listing = Listing(
        context.api, context.store, context.clock, namespaces=(), observe_forbidden=lambda _: None
    )
    return Operator(context, listing=listing, observe_look=lambda *_: None)


@asynccontextmanager
async def running(api: PlayedApi, clock: ManualClock) -> AsyncIterator[Operator]:
    operator = operator_of(context_of(api, clock))
    operator._controllers = dict.fromkeys(operator._controllers, Hanging())

    async def lead() -> None:
        await operator.list_first()
        await operator.run()

    task = asyncio.create_task(lead())
    yield operator
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_SECONDS", "SETTLE_SECONDS", "FORBIDDEN_SECONDS"):
        monkeypatch.setattr(operator_module, name, 0.001)


def test_an_api_server_that_is_silent_makes_a_replica_not_ready() -> None:
    calls, clock = Calls(), ManualClock()
    health = Health(calls, clock)
    assert health.fault() == "the API server has not answered yet"
    calls.answered_at = clock.monotonic()
    assert health.fault() is None
    clock.advance(SILENT_SECONDS)
    assert health.fault() == "the API server has not answered for 20 s"


def test_every_part_is_asked() -> None:
    clock = ManualClock()
    health = Health(Calls(answered_at=clock.monotonic()), clock)
    health.ask(lambda: None)
    assert health.fault() is None
    health.ask(lambda: "the loop is dead")
    assert health.fault() == "the loop is dead"


@pytest.mark.usefixtures("quick")
async def test_a_leader_is_ready_once_it_has_listed_and_while_its_looks_come_back(
    api: PlayedApi,
) -> None:
    clock = ManualClock()
    async with running(api, clock) as operator:
        assert operator.fault() == "resources are not listed yet"
        await asyncio.sleep(0.02)
        assert operator.fault() == "resources cannot be listed: srtjobs is forbidden"
        api.is_refusing = False
        await asyncio.sleep(0.02)
        assert operator.fault() is None
        clock.advance(STUCK_SECONDS)
        assert operator.fault() == "a look at SRTJob/n/job has not come back for 120 s"


@pytest.mark.usefixtures("quick")
async def test_a_watch_that_began_anew_is_followed_by_a_listing(api: PlayedApi) -> None:
    api.is_refusing = False
    async with running(api, ManualClock()) as operator:
        await asyncio.sleep(0.02)
        before = api.num_lists
        operator.hear_of_listing()
        await asyncio.sleep(0.02)
        assert api.num_lists == 2 * before


async def test_what_the_operator_wrote_itself_is_looked_at_when_a_watch_tells_of_it(
    api: PlayedApi,
) -> None:
    api.is_refusing = False
    context = context_of(api, ManualClock())
    operator = operator_of(context)
    await operator.list_first()
    await context.queue.take()
    context.store.put(CACHE)
    operator.hear(CACHE, is_gone=False)
    assert await asyncio.wait_for(context.queue.take(), 1.0) == ("TreeCache", "n", "trees")


async def test_nothing_is_looked_at_where_not_all_is_known(api: PlayedApi) -> None:
    """A job without its pods would be taken for one that has ended."""
    context = context_of(api, ManualClock())
    operator = operator_of(context)
    await operator.list_first()
    operator.hear(CACHE, is_gone=False)
    assert context.store.get("TreeCache", "n", "trees") is None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(context.queue.take(), 0.01)
