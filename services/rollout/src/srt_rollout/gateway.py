"""The only way into a rollout pod: authenticates, allow-lists, answers in vLLM's own shapes.

* Served: the routes of `make_app`. Everything else is 404, whatever vLLM behind it offers.
* ``/load`` and ``/livez`` are open, ``/readyz`` too (a probe carries no token); the rest needs the
  token.
* Trouble is a problem document (RFC 9457) whose ``type`` is the error's class name.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from srt_common.bearer import BearerToken
from srt_common.errors import (
    EngineBusy,
    EngineRefused,
    EngineUnavailable,
    MessageTooLarge,
    SRTError,
)
from srt_common.messages import rollouts
from srt_common.messages.rollouts import AbortRequest, WeightUpdate
from srt_rollout import admission
from srt_rollout.engine_client import COMPLETIONS_PATH
from srt_rollout.flights import DuplicateRequest
from srt_rollout.pod import Pod

BODY_TIMEOUT_SECONDS = 30.0

Message = TypeVar("Message")


class Unauthorized(EngineRefused):
    """No token, or not ours."""


_STATUS_OF: dict[type[SRTError], int] = {
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    DuplicateRequest: HTTPStatus.CONFLICT,
    EngineRefused: HTTPStatus.BAD_REQUEST,
    EngineBusy: HTTPStatus.TOO_MANY_REQUESTS,
    EngineUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    MessageTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}


def make_app(pod: Pod, *, token: BearerToken, max_body_bytes: int) -> FastAPI:
    """The gateway of one engine."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await pod.close()

    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=lifespan
    )
    routes = Routes(pod, token=token, max_body_bytes=max_body_bytes)
    app.add_api_route(rollouts.GENERATE_PATH, routes.generate, methods=["POST"])
    app.add_api_route(rollouts.ABORT_PATH, routes.abort_requests, methods=["POST"])
    app.add_api_route(COMPLETIONS_PATH, routes.completions, methods=["POST"])
    app.add_api_route(rollouts.WEIGHTS_PATH, routes.update_weights, methods=["POST"])
    app.add_api_route(rollouts.STATS_PATH, routes.stats, methods=["GET"])
    app.add_api_route(rollouts.LOAD_PATH, routes.load, methods=["GET"])
    app.add_api_route(rollouts.LIVEZ_PATH, routes.livez, methods=["GET"])
    app.add_api_route(rollouts.READYZ_PATH, routes.readyz, methods=["GET"])
    app.add_api_route("/metrics", routes.metrics, methods=["GET"])
    app.add_exception_handler(SRTError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_unknown_path)
    return app


class Routes:
    """One method per route."""

    def __init__(self, pod: Pod, *, token: BearerToken, max_body_bytes: int) -> None:
        self._pod = pod
        self._token = token
        self._max_body_bytes = max_body_bytes

    async def generate(self, request: Request) -> Response:
        """A rollout; aborted when its client goes away."""
        body = await self._authorized_body(request)
        wanted = admission.generate_request(body, self._pod.limits)
        with _on_disconnect(request, lambda: self._pod.flights.abort([wanted.request_id])):
            return _json(await self._pod.generate(wanted, request.headers))

    async def completions(self, request: Request) -> Response:
        """OpenAI's completions, for other clients; of lane ``policy``."""
        body = await self._authorized_body(request)
        wanted = admission.completion_request(body, self._pod.limits)
        request_id = f"completion-{uuid.uuid4().hex}"
        with _on_disconnect(request, lambda: self._pod.flights.hang_up(request_id)):
            return _json(await self._pod.complete(request_id, wanted, request.headers))

    async def abort_requests(self, request: Request) -> Response:
        """Abort by the clients' own ids; unknown ids are ignored."""
        wanted = self._decoded(await self._authorized_body(request), AbortRequest)
        self._pod.flights.abort(wanted.request_ids)
        return Response(status_code=HTTPStatus.OK)

    async def update_weights(self, request: Request) -> Response:
        """Load weights; answers when they are in use."""
        wanted = self._decoded(await self._authorized_body(request), WeightUpdate)
        self._pod.refuse_unless_started()
        await self._pod.weights.update(wanted)
        return _json(msgspec.json.encode({"policy_version": self._pod.weights.policy_version}))

    async def stats(self, request: Request) -> Response:
        """Counters of the drafter."""
        self._authorize(request)
        return _json(msgspec.json.encode(await self._pod.stats()))

    async def metrics(self, request: Request) -> Response:
        """The engine's own exposition, the drafter's counters among it."""
        self._authorize(request)
        text = await self._pod.client.metrics()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def load(self) -> Response:
        """Counts and gauges, nothing secret."""
        return _json(msgspec.json.encode(self._pod.load()))

    async def livez(self) -> Response:
        """The gateway's event loop runs; a dead engine ends the gateway."""
        return _json(b'{"status":"ok"}')

    async def readyz(self) -> Response:
        """Rollouts are served."""
        self._pod.refuse_unless_serving()
        return _json(b'{"status":"ok"}')

    def _authorize(self, request: Request) -> None:
        if not self._token.is_presented_by(request.headers.get("authorization")):
            raise Unauthorized(
                engine=self._pod.limits.engine,
                reason="the Authorization header carries no valid bearer token",
            )

    async def _authorized_body(self, request: Request) -> bytes:
        self._authorize(request)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._max_body_bytes:
                        raise MessageTooLarge(
                            channel=request.url.path,
                            reason=f"the body is larger than {self._max_body_bytes} bytes",
                        )
        except TimeoutError as error:
            raise self._refused("the body did not arrive in time") from error
        return bytes(body)

    def _decoded(self, body: bytes, kind: type[Message]) -> Message:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise self._refused(str(error)) from error

    def _refused(self, reason: str) -> EngineRefused:
        return EngineRefused(engine=self._pod.limits.engine, reason=reason)


@contextmanager
def _on_disconnect(request: Request, act: Callable[[], None]) -> Iterator[None]:
    """Act once when the client goes away before the block ends. The body has been read."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        act()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _problem(status: int, kind: str, detail: str) -> Response:
    document = {
        "type": kind,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return Response(
        msgspec.json.encode(document), status_code=status, media_type="application/problem+json"
    )


async def _answer_error(_: Request, error: Exception) -> Response:
    status = next(
        (_STATUS_OF[kind] for kind in type(error).__mro__ if kind in _STATUS_OF),
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
    return _problem(status, type(error).__name__, str(error))


async def _answer_unknown_path(request: Request, _: Exception) -> Response:
    return _problem(
        HTTPStatus.NOT_FOUND, "NotFound", f"{request.method} {request.url.path} is not served here"
    )
