"""Weights over HTTP: from the trainer into a folder below the weights root, whole or not at all.

    manifest -> limits -> each file (resumed where it broke off, checked by sha256) -> rename

* Asks only URLs below the configured prefix, follows no redirect and presents the pod's own token:
  whoever may call the gateway can send neither to another place.
* What a manifest claims is checked before a byte is written; nothing is read beyond it.
* One version lies below the root at a time: vLLM holds what it loaded in memory.
* Synchronous and run in a thread of its own: rollouts pass through the gateway meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedRandom
from os import SEEK_END
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from srt_common.bearer import BearerToken
from srt_common.errors import EngineRefused, EngineUnavailable
from srt_common.messages.weights import MAX_MANIFEST_BYTES, WeightsFile, WeightsManifest

PART_SUFFIX: Final = ".part"
_OWN_FOLDERS: Final = "policy-*-*"
"""Version and digest of the manifest; a trainer's own folders have no digest."""
MAX_ATTEMPTS: Final = 6
"""At one file; what an attempt has fetched is kept for the next."""
FIRST_BACKOFF_SECONDS: Final = 0.2
MAX_BACKOFF_SECONDS: Final = 5.0
RESERVED_BYTES: Final = 2**20
"""Left free on the file system."""
TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)

Result = TypeVar("Result")

_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*\Z")
_LOG = logging.getLogger(__name__)


class _TryAgain(Exception):
    """An attempt failed in a way that another may not."""


class WeightsDownload:
    """Fetches policy versions from one trainer. One call at a time."""

    def __init__(
        self, root: Path, *, engine: str, prefix: str, token: BearerToken, max_bytes: int
    ) -> None:
        self._root = root
        self._engine = engine
        self._prefix = prefix.rstrip("/") + "/"
        self._token = token
        self._max_bytes = max_bytes
        self._is_stopping = threading.Event()

    def fetch(self, url: str, policy_version: int, *, loaded: str | None) -> str:
        """The name of the folder below the root that holds the weights at ``url``.

        ``loaded`` is the folder whose weights are in use; when they are these, nothing is fetched.

        Raises:
            EngineRefused: the URL or what lies there is not allowed.
            EngineUnavailable: they cannot be had now; what came is kept for the next call.
        """
        self._check_url(url)
        with self._client() as http:
            content = self._persist("the manifest", lambda: self._manifest_content(http, url))
            manifest = self._checked_manifest(content, policy_version)
            name = f"policy-{policy_version:06d}-{hashlib.sha256(content).hexdigest()[:16]}"
            if name == loaded:
                return name
            try:
                self._fetch_files(http, url, manifest, self._root / name)
            except OSError as error:
                raise self._unavailable(f"{error.strerror} at {name}") from error
        return name

    def stop(self) -> None:
        """End a download that is under way, and refuse others."""
        self._is_stopping.set()

    def _check_url(self, url: str) -> None:
        """Below the prefix, in plain segments: nothing a server or client could read otherwise."""
        rest = url.removeprefix(self._prefix)
        if rest == url or not _PLAIN_PATH.match(rest):
            raise self._refused(f"url is {url!r}; allowed are those below {self._prefix}")

    def _client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self._token}", "Accept-Encoding": "identity"}
        return httpx.Client(
            headers=headers, timeout=TIMEOUT, follow_redirects=False, trust_env=False
        )

    # -- the manifest
    def _manifest_content(self, http: httpx.Client, url: str) -> bytes:
        content = bytearray()
        with self._response(http, url) as response:
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > MAX_MANIFEST_BYTES:
                    raise self._refused(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
        return bytes(content)

    def _checked_manifest(self, content: bytes, policy_version: int) -> WeightsManifest:
        try:
            manifest = msgspec.json.decode(content, type=WeightsManifest)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._refused(f"the manifest is not one: {error}") from error
        if manifest.policy_version != policy_version:
            raise self._refused(
                f"the manifest is of version {manifest.policy_version}; wanted is {policy_version}"
            )
        if len({file.name for file in manifest.files}) < len(manifest.files):
            raise self._refused("the manifest names a file twice")
        if manifest.num_bytes > self._max_bytes:
            raise self._refused(
                f"the weights have {manifest.num_bytes} bytes; "
                f"allowed are {self._max_bytes} (SRT_ROLLOUT_MAX_WEIGHTS_BYTES)"
            )
        return manifest

    # -- the files
    def _fetch_files(
        self, http: httpx.Client, url: str, manifest: WeightsManifest, folder: Path
    ) -> None:
        part = folder.with_name(folder.name + PART_SUFFIX)
        if folder.exists():  # of an earlier process: what is whole is kept, by its checksum
            folder.rename(part)
        self._remove_others(part)
        part.mkdir(parents=True, exist_ok=True)
        self._check_space(manifest, part)
        for file in manifest.files:
            fetch = partial(self._fetch_file, http, f"{url}/{file.name}", file, part / file.name)
            self._persist(file.name, fetch)
        part.rename(folder)

    def _remove_others(self, kept: Path) -> None:
        for path in self._root.glob(_OWN_FOLDERS):
            if path != kept and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)

    def _check_space(self, manifest: WeightsManifest, part: Path) -> None:
        have = sum(path.stat().st_size for path in part.iterdir())
        missing = manifest.num_bytes - have
        free = shutil.disk_usage(part).free - RESERVED_BYTES
        if missing > free:
            raise self._unavailable(f"{missing} bytes are to be fetched; {max(free, 0)} are free")

    def _fetch_file(self, http: httpx.Client, url: str, file: WeightsFile, path: Path) -> None:
        with path.open("a+b") as opened:
            if opened.tell() > file.size:
                opened.truncate(0)
            if (start := opened.seek(0, SEEK_END)) < file.size:
                with self._response(http, url, start=start) as response:
                    self._append(response, file, opened)
            _verify(file, opened)

    def _append(self, response: httpx.Response, file: WeightsFile, opened: BufferedRandom) -> None:
        """Write what comes behind what is there, or alone when it is the whole file."""
        start = opened.tell()
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            start = 0
            opened.truncate(0)
        for chunk in response.iter_raw():
            start += len(chunk)
            if start > file.size:
                opened.truncate(0)
                raise _TryAgain(f"more than the {file.size} bytes of the manifest came")
            opened.write(chunk)
            if self._is_stopping.is_set():
                raise _TryAgain("the pod is ending")
        if start < file.size:
            raise _TryAgain(f"{start} of {file.size} bytes came")

    # -- one request, and trying again
    @contextmanager
    def _response(
        self, http: httpx.Client, url: str, *, start: int = 0
    ) -> Iterator[httpx.Response]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        with http.stream("GET", url, headers=headers) as response:
            if response.is_server_error or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                raise _TryAgain(f"it was answered {response.status_code}")
            if not response.is_success:
                hint = "; redirects are not followed" if response.is_redirect else ""
                raise self._unavailable(
                    f"{urlsplit(url).path} was answered {response.status_code}{hint}"
                )
            yield response

    def _persist(self, what: str, fetch: Callable[[], Result]) -> Result:
        """What ``fetch`` returns, in one of `MAX_ATTEMPTS`. Raises EngineUnavailable."""
        reason = ""
        for number in range(MAX_ATTEMPTS):
            if number:
                _LOG.info("fetching again", extra={"file": what, "reason": reason})
                backoff_seconds = FIRST_BACKOFF_SECONDS * 2.0 ** (number - 1)
                self._is_stopping.wait(min(backoff_seconds, MAX_BACKOFF_SECONDS))
            if self._is_stopping.is_set():
                break
            try:
                return fetch()
            except (httpx.HTTPError, _TryAgain) as error:
                reason = str(error) or type(error).__name__
        if self._is_stopping.is_set():
            raise self._unavailable("the pod is ending")
        raise self._unavailable(f"{what} could not be fetched {MAX_ATTEMPTS} times: {reason}")

    def _refused(self, reason: str) -> EngineRefused:
        return EngineRefused(engine=self._engine, reason=f"weights: {reason}")

    def _unavailable(self, reason: str) -> EngineUnavailable:
        return EngineUnavailable(engine=self._engine, reason=f"weights: {reason}")


def _verify(file: WeightsFile, opened: BufferedRandom) -> None:
    opened.seek(0)
    digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != file.sha256:
        opened.truncate(0)
        raise _TryAgain(f"its sha256 is {digest}, the manifest says {file.sha256}")
