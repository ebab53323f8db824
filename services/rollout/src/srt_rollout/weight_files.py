"""Where the files of a weight update lie: in a folder given by path, or fetched from a URL.

* Every update ends as a folder of safetensors below the weights root, whose links lead nowhere
  else.
"""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath

from srt_common.bearer import BearerToken
from srt_common.errors import EngineRefused
from srt_common.messages.rollouts import WeightUpdate
from srt_rollout.settings import RolloutSettings
from srt_rollout.weights_download import WeightsDownload


class WeightFiles:
    """The weights root of one engine."""

    def __init__(self, engine: str, root: Path | None, download: WeightsDownload | None) -> None:
        self.engine = engine
        self.root = None if root is None else root.resolve()
        self._download = download

    @classmethod
    def of(cls, settings: RolloutSettings) -> WeightFiles:
        """As the settings say. Raises ConfigurationError when fetching lacks its token."""
        engine, root, prefix = (
            settings.engine_name,
            settings.weights_root,
            settings.weights_url_prefix,
        )
        if root is None or prefix is None:
            return cls(engine, root, None)
        download = WeightsDownload(
            root.resolve(),
            engine=engine,
            prefix=prefix,
            token=BearerToken(settings.token_file),
            max_bytes=settings.max_weights_bytes,
        )
        return cls(engine, root, download)

    async def folder_of(self, wanted: WeightUpdate, *, loaded: str | None) -> str:
        """The folder with these weights, relative to the root once links are resolved.

        ``loaded`` is the folder whose weights are in use; it is not fetched again.

        Raises:
            EngineRefused: the update is not allowed.
            EngineUnavailable: its files could not be fetched.
        """
        if self.root is None:
            raise self._refused("weights cannot be updated: SRT_ROLLOUT_WEIGHTS_ROOT is not set")
        if wanted.policy_version < 0:
            raise self._refused(f"policy_version is {wanted.policy_version}; allowed are 0 or more")
        if wanted.path and wanted.url:
            raise self._refused("path and url are both given; allowed is one of them")
        if not wanted.url:
            return self._below(self.root, wanted.path)
        if self._download is None:
            raise self._refused(
                f"url is {wanted.url!r}; none is allowed: SRT_ROLLOUT_WEIGHTS_URL_PREFIX is not set"
            )
        return await asyncio.to_thread(
            self._download.fetch, wanted.url, wanted.policy_version, loaded=loaded
        )

    def stop(self) -> None:
        """Fetch nothing more."""
        if self._download is not None:
            self._download.stop()

    def _below(self, root: Path, path: str) -> str:
        given = PurePosixPath(path)
        if "\0" in path or given.is_absolute() or ".." in given.parts or not given.parts:
            raise self._refused(f"path is {path!r}; allowed are folders below the weights root")
        folder = (root / given).resolve()
        if not folder.is_relative_to(root) or folder == root:
            raise self._refused(f"path is {path!r}; allowed are folders below the weights root")
        if not any(folder.glob("*.safetensors")):
            raise self._refused(
                f"path is {path!r}; allowed are folders that hold safetensors files"
            )
        return folder.relative_to(root).as_posix()

    def _refused(self, reason: str) -> EngineRefused:
        return EngineRefused(engine=self.engine, reason=reason)
