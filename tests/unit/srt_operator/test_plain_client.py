"""A client for plain HTTP sends nothing to a server whose certificate nobody checks."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from srt_operator.http_client import answer_of, plain_client

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


@asynccontextmanager
async def serving(context: ssl.SSLContext | None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on a free port, and what it was sent."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(ANSWER)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


async def test_who_speaks_no_http_counts_as_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ANSWER", b"-ERR unknown command\r\n\r\n")
    async with serving(None) as (port, seen), plain_client() as client:
        assert await answer_of(client, f"http://127.0.0.1:{port}/", bytes) is None
        assert len(seen) == 1


async def test_plain_http_is_answered() -> None:
    async with serving(None) as (port, _), plain_client() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/")).text == "ok"


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """Of a server whose certificate only it vouches for."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate")
    words = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    names = ("-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem")
    subprocess.run(["openssl", *words, *names], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


async def test_a_token_never_reaches_a_server_that_nobody_vouches_for(
    self_signed: ssl.SSLContext,
) -> None:
    async with serving(self_signed) as (port, seen), plain_client() as client:
        headers = {"authorization": "Bearer secret"}
        with pytest.raises(httpx.TransportError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get(f"https://127.0.0.1:{port}/", headers=headers)
        assert seen == []
