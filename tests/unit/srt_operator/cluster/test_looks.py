"""A look that fails concerns one resource: the others are looked at, and so is it, again."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from srt_common.cancellation import cancel_and_wait
from srt_common.clock import SystemClock
from srt_operator.backends.kubernetes_api import KubernetesApi
from srt_operator.cluster.companions import Companions
from srt_operator.cluster.context import Context
from srt_operator.cluster.listing import Listing
from srt_operator.cluster.operator import Operator
from srt_operator.cluster.queue import WorkQueue
from srt_operator.cluster.sayings import Sayings
from srt_operator.cluster.store import Key, Store
from srt_operator.cluster.upkeep import Upkeep
from srt_operator.event_loops import OwnLoop
from srt_operator.manifests.kubernetes.cluster import Cluster
from srt_operator.manifests.kubernetes.objects import Manifest


class BadStore(Store):
    """Fails, as no code of ours should, on one resource."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bad_looks = 0
        self.is_bad_again, self.is_good = asyncio.Event(), asyncio.Event()

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        if name == "good":
            self.is_good.set()
            return super().get(kind, namespace, name)
        self.num_bad_looks += 1
        if self.num_bad_looks > 1:
            self.is_bad_again.set()
        raise OverflowError("cannot convert float infinity to integer")


class EmptyApi:
    async def list(self, *_: Any, **__: Any) -> tuple[list[Manifest], str]:
        return [], "1"


async def test_a_resource_that_breaks_its_look_stops_nothing_else() -> None:
    clock, store = SystemClock(), BadStore()
    api = cast(KubernetesApi, EmptyApi())
    sayings = Sayings(api, clock, "a")
    queue = WorkQueue[Key]()
    context = Context(
        api=api,
        store=store,
        upkeep=Upkeep(api, store, sayings),
        queue=queue,
        sayings=sayings,
        cluster=cast(Cluster, None),
        clock=clock,
        companions=Companions(cast(OwnLoop, None)),
    )
    listing = Listing(api, store, clock, namespaces=(), observe_forbidden=lambda _: None)
    operator = Operator(context, listing=listing, observe_look=lambda *_: None)
    running = asyncio.create_task(operator.run())
    try:
        queue.add(("RolloutPool", "n", "bad"))
        async with asyncio.timeout(20):
            await store.is_bad_again.wait()
        queue.add(("RolloutPool", "n", "good"))
        async with asyncio.timeout(20):
            await store.is_good.wait()
        assert not running.done()
    finally:
        await cancel_and_wait([running])
