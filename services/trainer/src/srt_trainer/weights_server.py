"""Policy versions over HTTP, for engines that share no file system with the trainer.

* Answers `messages.weights`: a manifest with sizes and checksums, and the files it names, ranges
  too (aiohttp hands files to the kernel, so a large policy costs this process no time).
* Every request presents the token of the job.
* Serves what `WeightsFolder` leaves in its folder; a version that is gone is 404, and its reader is
  told of a newer one soon.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from srt_common.bearer import BearerToken
from srt_common.messages.weights import WEIGHTS_SERVICE_PATH, WeightsFile, WeightsManifest
from srt_trainer.weights import KEPT_VERSIONS, folder_name

SHUTDOWN_SECONDS: Final = 1.0
SEND_BYTES: Final = 2**20

_VERSION: Final = WEIGHTS_SERVICE_PATH + r"/{policy_version:[0-9]{1,9}}"
_FILE: Final = _VERSION + r"/{name:[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WeightsServer:
    """The folder's versions. Belongs to one event loop; use as a context manager."""

    def __init__(self, folder: Path, token: BearerToken, *, host: str, port: int) -> None:
        self._folder = folder
        self._token = token
        self._address = (host, port)
        self._manifests: dict[tuple[int, int], bytes] = {}
        """By inode and time of the folder: a version that is written again is another folder."""
        self._lock = asyncio.Lock()
        app = web.Application(middlewares=[self._authorize])
        app.router.add_get(_VERSION, self._manifest)
        app.router.add_get(_FILE, self._file)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)

    async def __aenter__(self) -> WeightsServer:
        await self._runner.setup()
        await web.TCPSite(self._runner, *self._address).start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._token.is_presented_by(request.headers.get("Authorization")):
            raise web.HTTPUnauthorized(text="the Authorization header carries no valid token")
        return await handler(request)

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        policy_version = int(request.match_info["policy_version"])
        async with self._lock:
            try:
                content = await asyncio.to_thread(self._manifest_of, policy_version)
            except FileNotFoundError as error:
                raise web.HTTPNotFound(text=f"no policy version {policy_version}") from error
        return web.Response(body=content, content_type="application/json")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        folder = folder_name(int(request.match_info["policy_version"]))
        return web.FileResponse(
            self._folder / folder / request.match_info["name"], chunk_size=SEND_BYTES
        )

    def _manifest_of(self, policy_version: int) -> bytes:
        """Read and hash once for all engines. Raises FileNotFoundError."""
        folder = self._folder / folder_name(policy_version)
        status = folder.stat()
        key = (status.st_ino, status.st_mtime_ns)
        if key not in self._manifests:
            if len(self._manifests) >= KEPT_VERSIONS:
                del self._manifests[next(iter(self._manifests))]
            self._manifests[key] = msgspec.json.encode(manifest_of(folder, policy_version))
        return self._manifests[key]


def manifest_of(folder: Path, policy_version: int) -> WeightsManifest:
    """What a folder holds. Raises FileNotFoundError when it goes meanwhile."""
    files = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(WeightsFile(name=path.name, size=path.stat().st_size, sha256=digest))
    if not files:
        raise FileNotFoundError(folder)
    return WeightsManifest(policy_version=policy_version, files=tuple(files))
