"""The HTTP application of a replica: its routes, its life, and errors as problem documents.

A problem document (RFC 9457) has the error's class name as its ``type``. There are no generated
documentation pages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import cast

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from srt_common.bearer import BearerToken
from srt_common.errors import MessageError, MessageTooLarge, SRTError, TreeStoreError
from srt_tree_cache.cache import TreeCache
from srt_tree_cache.routes import open_routes, token_routes

_STATUS_OF: dict[type[SRTError], HTTPStatus] = {
    MessageTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    MessageError: HTTPStatus.BAD_REQUEST,
    TreeStoreError: HTTPStatus.SERVICE_UNAVAILABLE,
}


def make_app(cache: TreeCache, token: BearerToken) -> FastAPI:
    """An application that starts ``cache`` and stops it at its end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        cache.start()
        yield
        await cache.stop()

    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=lifespan
    )
    app.include_router(open_routes(cache))
    app.include_router(token_routes(cache, token))
    app.add_exception_handler(SRTError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_refusal)
    return app


async def _answer_error(_: Request, error: Exception) -> Response:
    status = next(
        (_STATUS_OF[kind] for kind in type(error).__mro__ if kind in _STATUS_OF),
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
    return _problem(status, type(error).__name__, str(error))


async def _answer_refusal(_: Request, error: Exception) -> Response:
    refusal = cast(HTTPException, error)
    status = HTTPStatus(refusal.status_code)
    answer = _problem(status, status.phrase.replace(" ", ""), refusal.detail)
    answer.headers.update(refusal.headers or {})
    return answer


def _problem(status: HTTPStatus, kind: str, detail: str) -> Response:
    document = {"type": kind, "title": status.phrase, "status": int(status), "detail": detail}
    return Response(
        msgspec.json.encode(document), status_code=status, media_type="application/problem+json"
    )
