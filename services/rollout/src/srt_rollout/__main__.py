"""``python -m srt_rollout``: start vLLM behind the gateway and serve until SIGTERM.

Exit status: 0 after a drain, 1 when the engine ended by itself or did not start, 2 for wrong
settings.
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

from srt_common.clock import SystemClock
from srt_common.errors import ConfigurationError, EngineError
from srt_common.telemetry.setup import configure
from srt_rollout.admission import Limits
from srt_rollout.bearer import BearerToken
from srt_rollout.engine import EngineProcess, vocabulary_size
from srt_rollout.engine_client import EngineClient
from srt_rollout.gateway import make_app
from srt_rollout.pod import Pod
from srt_rollout.prefetch import PromptPrefetch
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
    """Serve until a signal (0) or until the engine has ended (1)."""
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
    client = EngineClient.to(engine.url, engine=settings.engine_name)
    pod = Pod(settings, client, limits=limits, token=token, prefetch=prefetch, clock=SystemClock())
    try:
        return await _serve_pod(settings, pod, engine, stopping)
    finally:
        await engine.stop(timeout_seconds=settings.stop_seconds)


def make_prefetch(settings: RolloutSettings) -> PromptPrefetch | None:
    """Hints to the tree cache, if there is one. Raises ConfigurationError."""
    url, secret = settings.tree_cache_url, settings.cache_secret_file
    if url is None or secret is None or settings.tree_cache_token_file is None:
        return None
    token = BearerToken(settings.tree_cache_token_file)
    return PromptPrefetch.to(url, token=token, secret_file=secret, model=settings.model)


async def _serve_pod(
    settings: RolloutSettings, pod: Pod, engine: EngineProcess, stopping: asyncio.Event
) -> int:
    config = uvicorn.Config(
        make_app(pod, max_body_bytes=settings.max_body_bytes),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.stop_seconds),
    )
    server = GatewayServer(config)
    serving = asyncio.create_task(server.serve())
    ended = asyncio.create_task(engine.wait())
    stopped = asyncio.create_task(stopping.wait())
    started = asyncio.create_task(pod.wait_started())
    try:
        status = await _supervise(
            pod, serving=serving, ended=ended, stopped=stopped, started=started
        )
    finally:
        for task in (started, stopped):
            task.cancel()
        server.should_exit = True
        await engine.stop(timeout_seconds=settings.stop_seconds)
        await serving
    return status


async def _supervise(
    pod: Pod,
    *,
    serving: asyncio.Task[None],
    ended: asyncio.Task[int],
    stopped: asyncio.Task[bool],
    started: asyncio.Task[None],
) -> int:
    """0 once a signal came and the pod has drained; 1 when the engine or the server ended first."""
    await asyncio.wait({serving, ended, stopped, started}, return_when=asyncio.FIRST_COMPLETED)
    if started.done() and (error := started.exception()) is not None:
        if not isinstance(error, EngineError):
            raise error
        _LOG.error("engine did not start", extra={"reason": str(error)})
        return 1
    if started.done():
        _LOG.info("serving")
        await asyncio.wait({serving, ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        _LOG.error("engine ended", extra={"exit_status": ended.result()})
        return 1
    if serving.done():
        _LOG.error("gateway could not listen")
        return 1
    _LOG.info("draining")
    await asyncio.wait(
        {asyncio.create_task(pod.drain()), ended}, return_when=asyncio.FIRST_COMPLETED
    )
    _LOG.info("drained")
    return 0


if __name__ == "__main__":
    sys.exit(main())
