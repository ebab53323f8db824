"""Which engines a job has: a fixed list, or the pods behind a headless Service.

A source gives the engines as they are now, and again as often as that may have changed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from srt_trainer.settings import EngineEndpoint

REFRESH_SECONDS: Final = 2.0

_LOGGER = logging.getLogger(__name__)


async def listed(endpoints: Sequence[EngineEndpoint]) -> AsyncIterator[Sequence[EngineEndpoint]]:
    """Engines that stay as they are."""
    yield endpoints


async def behind_service(url: str) -> AsyncIterator[Sequence[EngineEndpoint]]:
    """One engine for each address that a Service's name has, again and again.

    A name that cannot be resolved changes nothing: the engines known so far go on.
    """
    is_known = True
    while True:
        try:
            yield await _resolved(url)
            is_known = True
        except OSError as error:
            if is_known:
                extra = {"service": url, "reason": error.strerror}
                _LOGGER.warning("the engines' service has no address", extra=extra)
            is_known = False
        await asyncio.sleep(REFRESH_SECONDS)


async def _resolved(url: str) -> list[EngineEndpoint]:
    """Of one address family, or a pod with two would count twice."""
    parts = urlsplit(url)
    found = await asyncio.get_running_loop().getaddrinfo(
        parts.hostname, parts.port, type=socket.SOCK_STREAM
    )
    addresses = sorted({ipaddress.ip_address(place[4][0]) for place in found}, key=_order)
    family = addresses[0].version
    return [_endpoint(address, parts.port) for address in addresses if address.version == family]


def _order(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[int, int]:
    return address.version, int(address)


def _endpoint(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int | None
) -> EngineEndpoint:
    host = f"[{address}]" if address.version == 6 else str(address)
    return EngineEndpoint(name=address.exploded.replace(":", "-"), url=f"http://{host}:{port}")
