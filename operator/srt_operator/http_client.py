"""Asking the suite's own processes, which speak plain HTTP.

* They know no authority: loading certificates takes 20 ms, and there is nothing to verify.
* Fails closed: a URL of a server with TLS gets an error, and no token is sent there.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final, TypeVar

import httpx
import msgspec

DEFAULT_TIMEOUT_SECONDS: Final = 5.0
_NO_AUTHORITIES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


Answer = TypeVar("Answer")


def plain_client(*, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> httpx.AsyncClient:
    """A client that asks no proxy and trusts no certificate; closed by whoever enters it."""
    return httpx.AsyncClient(timeout=timeout, trust_env=False, verify=_NO_AUTHORITIES)


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
    except (httpx.HTTPError, msgspec.MsgspecError):
        return None
