"""Asks a process whether it is ready. One question an answer; who asks again decides when."""

from __future__ import annotations

import asyncio

import httpx

from srt_operator.http_client import NO_ANSWER, plain_client
from srt_operator.manifests.process import HttpReadiness, Readiness, ServerReadiness

TIMEOUT_SECONDS = 2.0


async def is_ready(readiness: Readiness) -> bool:
    """Whether the process answers as it should; no answer counts as no."""
    if isinstance(readiness, HttpReadiness):
        return await _answers_http(readiness)
    return await _answers_ping(readiness)


async def _answers_http(readiness: HttpReadiness) -> bool:
    try:
        async with plain_client(timeout=TIMEOUT_SECONDS) as client:
            answer = await client.get(readiness.url)
    except NO_ANSWER:
        return False
    return answer.status_code == httpx.codes.OK


async def _answers_ping(readiness: ServerReadiness) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(readiness.socket)
            try:
                writer.write(b"PING\r\n")
                return (await reader.readline()).startswith(b"+PONG")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
