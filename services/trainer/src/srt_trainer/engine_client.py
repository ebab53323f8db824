"""HTTP to the gateway of one rollout engine; the only module that knows status codes.

* Raises `EngineUnavailable` for whatever may be better later or elsewhere, `EngineRefused` for what
  will be wrong for ever. Bodies of rollouts never get into messages: they may hold tokens.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import httpx
import msgspec
from httpx_aiohttp import HttpxAiohttpClient

from srt_common.errors import EngineRefused, EngineUnavailable
from srt_common.messages.rollouts import (
    DECODE_LOAD,
    DECODE_RESPONSE,
    ENCODE_JSON,
    GENERATE_PATH,
    LOAD_PATH,
    WEIGHTS_PATH,
    EngineLoad,
    GenerateRequest,
    GenerateResponse,
    WeightUpdate,
)
from srt_trainer.settings import EngineEndpoint

Message = TypeVar("Message")

CONNECT_SECONDS: Final = 5.0
LOAD_SECONDS: Final = 10.0
"""A gateway answers from memory: one that takes longer is gone, and nobody should wait for it."""

MAX_CONNECTIONS: Final = 100_000
MAX_DETAIL_CHARACTERS: Final = 500

LATER_STATUSES = frozenset({408, 409, 429})
"""Of the 4xx: a gateway that is slow or busy, or still holds an earlier attempt."""


class EngineClient:
    """One engine. Safe to share between tasks of one event loop."""

    def __init__(
        self, endpoint: EngineEndpoint, http: httpx.AsyncClient, *, timeout_seconds: float
    ) -> None:
        self.name = endpoint.name
        """As it calls itself, once it has answered."""
        self.url = endpoint.url
        self._http = http
        self._timeout_seconds = timeout_seconds

    async def generate(
        self, request: GenerateRequest, *, headers: dict[str, str], timeout_seconds: float
    ) -> GenerateResponse:
        """Sample one response. Cancelling the call aborts it in the engine."""
        content = await self._post(GENERATE_PATH, request, headers, timeout_seconds)
        return self._decoded(DECODE_RESPONSE, content)

    async def update_weights(self, update: WeightUpdate) -> None:
        """Make the engine load weights; harmless when it has them already."""
        await self._post(WEIGHTS_PATH, update, {}, self._timeout_seconds)

    async def load(self) -> EngineLoad:
        """What the engine is doing and which weights it has."""
        request = self._http.build_request("GET", self.url + LOAD_PATH, timeout=LOAD_SECONDS)
        load = self._decoded(DECODE_LOAD, await self._send(request))
        self.name = load.engine
        return load

    async def _post(
        self, path: str, message: msgspec.Struct, headers: dict[str, str], timeout_seconds: float
    ) -> bytes:
        request = self._http.build_request(
            "POST",
            self.url + path,
            content=ENCODE_JSON.encode(message),
            headers={"content-type": "application/json", **headers},
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
        )
        return await self._send(request)

    async def _send(self, request: httpx.Request) -> bytes:
        try:
            response = await self._http.send(request)
        except httpx.HTTPError as error:
            raise EngineUnavailable(engine=self.name, reason=type(error).__name__) from error
        if response.is_success:
            return response.content
        reason = f"{request.method} {request.url.path} was answered {response.status_code}"
        if request.url.path == WEIGHTS_PATH:  # neither it nor its answer holds tokens
            reason += f": {_problem(response).detail[:MAX_DETAIL_CHARACTERS]}"
        if response.status_code >= 500 or response.status_code in LATER_STATUSES:
            raise EngineUnavailable(engine=self.name, reason=reason)
        raise EngineRefused(engine=self.name, reason=f"{reason} {_problem(response).type}")

    def _decoded(self, decoder: msgspec.json.Decoder[Message], content: bytes) -> Message:
        try:
            return decoder.decode(content)
        except msgspec.MsgspecError as error:
            reason = f"answer is not what was asked for: {type(error).__name__}"
            raise EngineUnavailable(engine=self.name, reason=reason) from error


class _Problem(msgspec.Struct, frozen=True):
    """A problem document."""

    type: Annotated[str, msgspec.Meta(max_length=100)] = ""
    detail: str = ""
    """May quote a request: shown only where that is harmless."""


def _problem(response: httpx.Response) -> _Problem:
    try:
        return msgspec.json.decode(response.content, type=_Problem)
    except msgspec.MsgspecError:
        return _Problem()


def open_http(token: str | None) -> httpx.AsyncClient:
    """The connection pool of all engines.

    Over aiohttp: httpx's own pool looks at every connection for every request, which for 64 at once
    costs 6 ms each instead of 0.2. The engines' slots say how many requests are in flight.

    Args:
        token: bearer token of the gateways, None when they ask for none.
    """
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS)
    return HttpxAiohttpClient(headers=headers, limits=limits, trust_env=False)
