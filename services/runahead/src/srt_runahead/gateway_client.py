"""The engine's gateway as a run-ahead worker uses it: generate, and abort by id."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import httpx
import msgspec

from srt_common.errors import EngineBusy, EngineRefused, EngineUnavailable
from srt_common.messages.rollouts import (
    ABORT_PATH,
    DECODE_RESPONSE,
    ENCODE_JSON,
    GENERATE_PATH,
    AbortRequest,
    GenerateRequest,
    GenerateResponse,
)
from srt_common.telemetry.propagation import inject

_CONNECT_SECONDS: Final = 2.0
_ABORT_SECONDS: Final = 2.0


class GatewayClient:
    """One gateway. Belongs to one event loop."""

    def __init__(self, client: httpx.AsyncClient, *, engine: str, token_file: Path) -> None:
        self._client = client
        self._engine = engine
        self._token_file = token_file

    @classmethod
    def to(cls, url: str, *, engine: str, token_file: Path) -> GatewayClient:
        """Connect lazily; the caller bounds how long a chunk may take."""
        client = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )
        return cls(client, engine=engine, token_file=token_file)

    async def generate(self, request: GenerateRequest) -> GenerateResponse:
        """Sample, answered when the request has ended or was aborted.

        Raises:
            EngineBusy: no slot for run-ahead now.
            EngineUnavailable: not reachable, starting or draining.
            EngineRefused: anything else the gateway will not do.
        """
        response = await self._post(GENERATE_PATH, ENCODE_JSON.encode(request), timeout=None)
        try:
            return DECODE_RESPONSE.decode(response.content)
        except msgspec.MsgspecError as error:
            raise EngineRefused(engine=self._engine, reason="the answer is not readable") from error

    async def abort(self, request_id: str) -> None:
        """Ask for the end of a request; its answer holds the tokens so far. Raises EngineError."""
        body = ENCODE_JSON.encode(AbortRequest([request_id]))
        await self._post(ABORT_PATH, body, timeout=_ABORT_SECONDS)

    async def close(self) -> None:
        """Let go of all connections; the gateway aborts what is in flight."""
        await self._client.aclose()

    async def _post(self, path: str, body: bytes, *, timeout: float | None) -> httpx.Response:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token()}"}
        inject(headers)
        limit = httpx.Timeout(timeout, connect=_CONNECT_SECONDS)
        try:
            response = await self._client.post(path, content=body, headers=headers, timeout=limit)
        except httpx.HTTPError as error:
            raise EngineUnavailable(engine=self._engine, reason=type(error).__name__) from error
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise EngineBusy(engine=self._engine, reason="no slot for run-ahead")
        if response.is_server_error:
            raise EngineUnavailable(engine=self._engine, reason=f"status {response.status_code}")
        if not response.is_success:
            raise EngineRefused(engine=self._engine, reason=f"status {response.status_code}")
        return response

    def _token(self) -> str:
        try:
            return self._token_file.read_text().strip()
        except OSError as error:
            raise EngineUnavailable(
                engine=self._engine, reason=f"token file: {error.strerror}"
            ) from error
