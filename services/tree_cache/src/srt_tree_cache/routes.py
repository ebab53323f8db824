"""What a replica answers over HTTP.

* Everything below ``/v1`` needs the bearer token; probes and ``/metrics`` show counts and are open.
* Answers hold keys and counts. Only a prompt's snapshot holds tokens, packed.
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

from srt_common.bearer import BearerToken
from srt_common.errors import MessageError, MessageTooLarge
from srt_common.keys import PROMPT_KEY_BYTES, PromptKey
from srt_common.messages.tree_cache import (
    COVERAGE_PATH,
    MAX_COVERAGE_KEYS,
    PROMPTS_PATH,
    STATS_PATH,
    CoverageRequest,
)
from srt_common.telemetry.propagation import extract
from srt_tree_cache.cache import TreeCache
from srt_tree_cache.exposition import CONTENT_TYPE, exposition

MAX_BODY_BYTES = 2**20
MAX_PAGE = 1000
CHANNEL = "request"

_DECODE_COVERAGE = msgspec.json.Decoder(CoverageRequest)


def open_routes(cache: TreeCache) -> APIRouter:
    """Probes and metrics."""
    router = APIRouter()

    @router.get("/livez")
    async def livez() -> Response:
        return _probe(cache.is_alive())

    @router.get("/readyz")
    async def readyz() -> Response:
        return _probe(cache.is_alive() and cache.is_ready())

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition(await cache.stats()), media_type=CONTENT_TYPE)

    return router


def token_routes(cache: TreeCache, token: BearerToken) -> APIRouter:
    """Queries and actions."""

    async def authorize(request: Request) -> None:
        if not token.is_presented_by(request.headers.get("authorization")):
            challenge = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "no token, or not ours", challenge)

    router = APIRouter(dependencies=[Depends(authorize)])
    _add_queries(router, cache)
    _add_actions(router, cache)
    return router


def _add_queries(router: APIRouter, cache: TreeCache) -> None:
    @router.get(STATS_PATH)
    async def stats() -> Response:
        return _json(await cache.stats())

    @router.get(PROMPTS_PATH)
    async def prompts(request: Request) -> Response:
        after = request.query_params.get("after")
        limit = _limit(request.query_params.get("limit", "100"))
        page = await cache.page(after=None if after is None else _key(after), limit=limit)
        return _json(page)

    @router.post(COVERAGE_PATH)
    async def coverage(request: Request) -> Response:
        asked = _coverage_request(await _body(request))
        return _json(await cache.coverage([_key(key) for key in asked.prompt_keys]))

    @router.get(PROMPTS_PATH + "/{key}")
    async def prompt(key: str) -> Response:
        [summary] = await cache.coverage([_key(key)])
        if summary.num_sequences == 0:
            raise _not_found(key)
        return _json(summary)

    @router.get(PROMPTS_PATH + "/{key}/snapshot")
    async def snapshot(key: str) -> Response:
        image = await cache.image(_key(key))
        if image is None:
            raise _not_found(key)
        return Response(image, media_type="application/octet-stream")


def _add_actions(router: APIRouter, cache: TreeCache) -> None:
    @router.post(PROMPTS_PATH + "/{key}/prefetch")
    async def prefetch(key: str, request: Request) -> Response:
        return _json(await cache.prefetch(_key(key), extract(request.headers)))

    @router.delete(PROMPTS_PATH + "/{key}")
    async def remove(key: str) -> Response:
        if not await cache.remove(_key(key)):
            raise _not_found(key)
        return Response(status_code=HTTPStatus.NO_CONTENT)


def _json(answer: object) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _probe(is_good: bool) -> Response:
    return Response(status_code=HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE)


def _not_found(key: str) -> HTTPException:
    return HTTPException(HTTPStatus.NOT_FOUND, f"there is no tree of prompt {key}")


def _key(text: str) -> PromptKey:
    """The key that a client wrote in hexadecimal."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != PROMPT_KEY_BYTES:
        shown = text[:64]
        raise MessageError(
            channel=CHANNEL, reason=f"prompt_key is {shown!r}; allowed are 32 hexadecimal digits"
        )
    return PromptKey(key)


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:5]) <= MAX_PAGE):
        raise MessageError(
            channel=CHANNEL, reason=f"limit is {text[:16]!r}; allowed are 1 to {MAX_PAGE}"
        )
    return int(text)


def _coverage_request(body: bytes) -> CoverageRequest:
    try:
        asked = _DECODE_COVERAGE.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MessageError(channel=CHANNEL, reason=str(error)) from error
    if len(asked.prompt_keys) > MAX_COVERAGE_KEYS:
        num_keys = len(asked.prompt_keys)
        raise MessageTooLarge(
            channel=CHANNEL, reason=f"{num_keys} prompt_keys; allowed are {MAX_COVERAGE_KEYS}"
        )
    return asked


async def _body(request: Request) -> bytes:
    """The body, refused as soon as it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise MessageTooLarge(
                channel=CHANNEL, reason=f"body is larger than {MAX_BODY_BYTES} bytes"
            )
    return bytes(body)
