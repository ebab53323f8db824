"""Asking the suite's own processes, which speak plain HTTP.

* They know no authority: loading certificates takes 20 ms, and there is nothing to verify.
* Through aiohttp: an answer on httpx's own transport costs five times as much of a core, and a
  leader asks for thousands a second.
* Fails closed: a URL of a server with TLS gets an error, and no token is sent there.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final, TypeVar

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import HttpxAiohttpClient

DEFAULT_TIMEOUT_SECONDS: Final = 5.0
_LIMITS: Final = httpx.Limits(max_connections=100, keepalive_expiry=60.0)
"""Longer than between two questions to an engine; its gateway keeps connections longer."""
_NO_AUTHORITIES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


NO_ANSWER: Final = (httpx.HTTPError, aiohttp.ClientError)
"""What a client raises for a process that is away; aiohttp's own for one that speaks no HTTP."""
Answer = TypeVar("Answer")


def plain_client(*, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> httpx.AsyncClient:
    """A client that asks no proxy and trusts no certificate; closed by whoever enters it."""
    return HttpxAiohttpClient(
        timeout=timeout, trust_env=False, verify=_NO_AUTHORITIES, limits=_LIMITS
    )


async def answer_of(
    client: httpx.AsyncClient,
    url: str,
    decode: Callable[[bytes], Answer],
    *,
    method: str = "GET",
    **options: Any,
) -> Answer | None:
    """What a process says; None where it is away, refuses, or says something else.

    Args:
        client: what asks.
        url: what is asked.
        decode: reads an answer; msgspec's errors mean that it is something else.
        method: of HTTP.
        options: as `httpx.AsyncClient.request` takes them.
    """
    try:
        answer = await client.request(method, url, **options)
        return decode(answer.content) if answer.status_code == httpx.codes.OK else None
    except (*NO_ANSWER, msgspec.MsgspecError):
        return None
