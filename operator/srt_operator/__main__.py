"""``python -m srt_operator``: wait for the lease, then look after the cluster's resources.

With the back end ``static`` it carries one given job through instead (`static_run`).

Exit status: 0 after SIGTERM, 1 when the lease is lost or the API server is away at the start, 2 for
wrong settings. Where watches fail and cannot end, it is killed (`handlers.HUNG_SECONDS`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
from base64 import b64decode, b64encode
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from srt_common.cancellation import cancel_and_wait
from srt_common.clock import Clock, SystemClock
from srt_common.errors import ConfigurationError
from srt_common.telemetry.setup import configure
from srt_operator.backends.kubernetes_api import (
    API_VERSIONS,
    KubernetesApi,
    KubernetesConflict,
    KubernetesError,
)
from srt_operator.cluster.companions import Companions
from srt_operator.cluster.context import Context
from srt_operator.cluster.listing import Listing
from srt_operator.cluster.operator import Operator
from srt_operator.cluster.probes import Health, Metrics, serving
from srt_operator.cluster.queue import WorkQueue
from srt_operator.cluster.sayings import Sayings
from srt_operator.cluster.settings import (
    OperatorSettings,
    job_redis_url,
    pod_defaults,
    redis_ca,
    redis_url,
)
from srt_operator.cluster.store import Key, Store
from srt_operator.cluster.upkeep import Upkeep
from srt_operator.election import Election
from srt_operator.event_loops import NamesApart, OwnLoop, own_loop
from srt_operator.handlers import watching
from srt_operator.manifests.kubernetes.cluster import Cluster

KEY_SECRET = "srt-operator-key"
EXIT_STOPPED, EXIT_LOST, EXIT_MISCONFIGURED = 0, 1, 2
_LOG = logging.getLogger("srt_operator")


def main() -> int:
    """Read the settings and serve; the exit status."""
    try:
        settings = OperatorSettings.from_environment()
        telemetry = configure("srt-operator", instance=settings.identity)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_MISCONFIGURED
    _LOG.info("starting", extra={"settings": settings.resolved()})
    try:
        if settings.backend == "static":
            from srt_operator import static_run

            return static_run.main()
        with asyncio.Runner(loop_factory=NamesApart) as runner:
            return runner.run(serve(settings))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_MISCONFIGURED
    except KubernetesError as error:
        _LOG.error("the operator stops", extra={"reason": str(error)})
        return EXIT_LOST
    finally:
        telemetry.close()


async def serve(settings: OperatorSettings) -> int:
    """Stand by, lead, and stop at a signal; the exit status.

    A lost lease ends the process at once: another replica may already be acting. It is renewed in a
    thread of its own, however much there is to look after; whether that goes on is asked of
    ``/livez``.

    Raises:
        ConfigurationError, KubernetesError: it cannot begin.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    make_cluster = _cluster(settings)
    async with AsyncExitStack() as stack:
        api = await KubernetesApi.connect()
        stack.push_async_callback(api.close)
        beside, leases = await _lease_connection(stack)
        clock, metrics = SystemClock(), Metrics()
        queue = WorkQueue[Key](observe_wait=metrics.waits.observe)
        refresh = partial(metrics.refresh, [api.calls, leases.calls], queue)
        health = Health(leases.calls, clock)
        companions = Companions(await stack.enter_async_context(own_loop("companions")))
        probes = serving(
            settings.host,
            settings.port,
            metrics=metrics,
            refresh=refresh,
            health=health,
            engines=companions.engines_of,
        )
        await stack.enter_async_context(probes)
        election = Election(
            leases, namespace=settings.namespace, identity=settings.identity, clock=clock
        )
        health.ask(election.fault)
        if not await _until(stopping, beside.run(election.win())):
            return EXIT_STOPPED
        metrics.is_leading.set(1)
        cluster = make_cluster(key=await operator_key(api, settings.namespace))
        acting = api.fenced(lambda: election.is_held)
        context = _context(settings, acting, queue, cluster, clock, companions)
        operator = _operator(settings, context, metrics)
        health.ask(operator.fault)
        lost = asyncio.create_task(beside.run(_leave_when_lost(election)), name="lease")
        try:
            if await _until(stopping, operator.list_first()):
                entered = watching(operator, namespaces=settings.watch_namespaces)
                watches = await stack.enter_async_context(entered)
                await _lead(operator, watches, stopping)
        finally:
            await cancel_and_wait([lost])
        await operator.close()
        await beside.run(election.release())
        return EXIT_STOPPED


async def _lease_connection(stack: AsyncExitStack) -> tuple[OwnLoop, KubernetesApi]:
    """Where the lease is renewed, and what with."""
    beside = await stack.enter_async_context(own_loop("lease"))
    leases = await beside.run(KubernetesApi.connect())
    stack.push_async_callback(lambda: beside.run(leases.close()))
    return beside, leases


def _context(
    settings: OperatorSettings,
    api: KubernetesApi,
    queue: WorkQueue[Key],
    cluster: Cluster,
    clock: Clock,
    companions: Companions,
) -> Context:
    store, sayings = Store(), Sayings(api, clock, settings.identity)
    return Context(
        api=api,
        store=store,
        upkeep=Upkeep(api, store, sayings),
        queue=queue,
        sayings=sayings,
        cluster=cluster,
        clock=clock,
        companions=companions,
    )


def _operator(settings: OperatorSettings, context: Context, metrics: Metrics) -> Operator:
    listing = Listing(
        context.api,
        context.store,
        context.clock,
        namespaces=settings.watch_namespaces,
        observe_forbidden=metrics.forbidden.set,
    )
    return Operator(context, listing=listing, observe_look=metrics.observe_look)


def _cluster(settings: OperatorSettings) -> partial[Cluster]:
    """All but the key, so that what is wrong with it is said before standing by.

    Raises:
        ConfigurationError: a file that a setting names cannot be used.
    """
    return partial(
        Cluster,
        image_trainer=settings.image_trainer,
        image_rollout=settings.image_rollout,
        image_tree_cache=settings.image_tree_cache,
        image_runahead=settings.image_runahead,
        pull_policy=settings.image_pull_policy,
        redis_url=redis_url(settings),
        job_redis_url=job_redis_url(settings),
        redis_ca=redis_ca(settings),
        file_roots=settings.file_roots,
        pod_defaults=pod_defaults(settings),
        prometheus_url=settings.prometheus_url,
    )


async def operator_key(api: KubernetesApi, namespace: str) -> bytes:
    """What tokens are derived from; made once, and the same for every replica."""
    made = {
        "apiVersion": API_VERSIONS["Secret"],
        "kind": "Secret",
        "metadata": {"name": KEY_SECRET, "namespace": namespace},
        "type": "Opaque",
        "data": {"key": b64encode(secrets.token_bytes(32)).decode()},
    }
    found = await api.get("Secret", namespace, KEY_SECRET)
    if found is None:
        try:
            found = await api.create(made)
        except KubernetesConflict:
            found = await api.get("Secret", namespace, KEY_SECRET)
    assert found is not None
    return b64decode(found["data"]["key"])


async def _lead(operator: Operator, watches: asyncio.Task[None], stopping: asyncio.Event) -> None:
    """Look after everything until a signal. What fails comes out."""
    working = asyncio.create_task(operator.run(), name="looks")
    waiting = asyncio.create_task(stopping.wait(), name="signal")
    try:
        done, _ = await asyncio.wait(
            {watches, working, waiting}, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
    finally:
        await cancel_and_wait([working, waiting])


async def _leave_when_lost(election: Election) -> None:
    await election.hold()
    _LOG.error("the lease is lost: leaving at once")
    logging.shutdown()
    os._exit(EXIT_LOST)


async def _until(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether ``work`` was done before a signal came."""
    task = asyncio.create_task(work)
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait([waiting])
    if task.done():
        task.result()
        return True
    await cancel_and_wait([task])
    return False


if __name__ == "__main__":
    sys.exit(main())
