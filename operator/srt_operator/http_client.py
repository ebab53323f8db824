"""Clients for the suite's own processes, which speak plain HTTP.

* They know no authority: loading certificates takes 20 ms, and there is nothing to verify.
* Fails closed: a URL of a server with TLS gets an error, and no token is sent there.
"""

from __future__ import annotations

import ssl
from typing import Final

import httpx

DEFAULT_TIMEOUT_SECONDS: Final = 5.0
_NO_AUTHORITIES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def plain_client(*, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> httpx.AsyncClient:
    """A client that asks no proxy and trusts no certificate; closed by whoever enters it."""
    return httpx.AsyncClient(timeout=timeout, trust_env=False, verify=_NO_AUTHORITIES)
