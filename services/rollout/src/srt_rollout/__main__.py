"""``python -m srt_rollout``: start vLLM behind the gateway and serve until SIGTERM.

Exit status: 0 after a drain, 1 when the engine ended by itself, did not start or was not healthy
any more, 2 for wrong settings.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from opentelemetry import metrics, trace

from srt_common.bearer import BearerToken
from srt_common.clock import SystemClock
from srt_common.errors import ConfigurationError, EngineError
from srt_common.telemetry.setup import configure
from srt_rollout.admission import Limits
from srt_rollout.engine import EngineProcess, vocabulary_size
from srt_rollout.engine_client import KEEP_ALIVE_SECONDS, EngineClient
from srt_rollout.gateway import make_app
from srt_rollout.pod import Pod
from srt_rollout.prefetch import PromptPrefetch
from srt_rollout.rollout_trace import RolloutTraces
from srt_rollout.settings import RolloutSettings

_LOG = logging.getLogger("srt_rollout")


class GatewayServer(uvicorn.Server):
    """uvicorn that leaves signals alone: a drain comes before the end."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none; `serve` handles them."""
        yield


def main() -> int:
    """Read the settings, serve, and say how it ended."""
    try:
        settings = RolloutSettings.from_environment()
        telemetry = configure("srt-rollout", instance=settings.engine_name)
        _LOG.info("starting", extra={"settings": settings.resolved()})
        with tempfile.TemporaryDirectory(prefix="srt-rollout-") as folder:
            status = asyncio.run(serve(settings, metrics_folder=Path(folder)))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    telemetry.close()
    return status


async def serve(settings: RolloutSettings, *, metrics_folder: Path) -> int:
    """Serve until a signal (0) or until the engine has ended (1). Raises ConfigurationError."""
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    limits = Limits(
        engine=settings.engine_name,
        max_model_len=settings.max_model_len,
        vocabulary_size=vocabulary_size(settings.model),
    )
    token, prefetch = BearerToken(settings.token_file), make_prefetch(settings)
    engine = await EngineProcess.start(settings, metrics_folder=metrics_folder)
    try:
        pod = Pod(
            settings,
            EngineClient.to(engine.url, engine=settings.engine_name),
            limits=limits,
            traces=make_traces(settings.engine_name),
            prefetch=prefetch,
            clock=SystemClock(),
        )
        return await run(pod, engine, make_server(settings, pod, token), stopping)
    finally:
        await engine.stop(timeout_seconds=settings.stop_seconds)


def make_prefetch(settings: RolloutSettings) -> PromptPrefetch | None:
    """Hints to the tree cache, if there is one. Raises ConfigurationError."""
    url, secret = settings.tree_cache_url, settings.cache_secret_file
    if url is None or secret is None or settings.tree_cache_token_file is None:
        return None
    token = BearerToken(settings.tree_cache_token_file)
    return PromptPrefetch.to(url, token=token, secret_file=secret, model=settings.model)


def make_traces(engine: str) -> RolloutTraces:
    """Spans and counters of this process's providers."""
    scope = "srt_rollout.gateway"
    return RolloutTraces(engine, tracer=trace.get_tracer(scope), meter=metrics.get_meter(scope))


def make_server(settings: RolloutSettings, pod: Pod, token: BearerToken) -> GatewayServer:
    """The gateway's HTTP server, not started."""
    config = uvicorn.Config(
        make_app(pod, token=token, max_body_bytes=settings.max_body_bytes),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.stop_seconds),
    )
    return GatewayServer(config)


async def run(
    pod: Pod, engine: EngineProcess, server: GatewayServer, stopping: asyncio.Event
) -> int:
    """Serve, and drain once ``stopping`` is set; the exit status."""
    serving = asyncio.create_task(server.serve())
    ended = asyncio.create_task(engine.wait())
    stopped = asyncio.create_task(stopping.wait())
    living = asyncio.create_task(live(pod))
    try:
        await asyncio.wait({living, ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            _LOG.error("engine ended", extra={"exit_status": ended.result()})
            return 1
        if living.done():
            living.result()
        _LOG.info("draining")
        drained = asyncio.create_task(pod.drain())
        await asyncio.wait({drained, ended}, return_when=asyncio.FIRST_COMPLETED)
    except EngineError as error:
        _LOG.error("engine does not serve", extra={"reason": str(error)})
        return 1
    else:
        return 0
    finally:
        living.cancel()
        stopped.cancel()
        server.should_exit = True
        await serving


async def live(pod: Pod) -> None:
    """Wait for the engine, then look after it for ever. Raises EngineError."""
    await pod.wait_started()
    _LOG.info("serving")
    await pod.watch()


if __name__ == "__main__":
    sys.exit(main())
