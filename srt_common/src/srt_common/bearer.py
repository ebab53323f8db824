"""The token that clients present: in a file, compared in constant time, replaced while we run."""

from __future__ import annotations

import hmac
from pathlib import Path

from srt_common.errors import ConfigurationError

MIN_TOKEN_BYTES = 16
_SCHEME = b"bearer "


class BearerToken:
    """The token in a file. A file that becomes unreadable leaves the last token standing."""

    def __init__(self, file: Path) -> None:
        """Read the file. Raises ConfigurationError when it holds no token."""
        self._file = file
        self._modified_ns = -1
        self._token = b""
        self._read()

    def __str__(self) -> str:
        """The token to present, as the file has it now."""
        self._refresh()
        return self._token.decode()

    def is_presented_by(self, authorization: str | None) -> bool:
        """True when a request's ``Authorization`` header carries the token."""
        if authorization is None:
            return False
        header = authorization.encode("latin-1", "replace")
        if header[: len(_SCHEME)].lower() != _SCHEME:
            return False
        self._refresh()
        return hmac.compare_digest(header[len(_SCHEME) :].strip(), self._token)

    def _refresh(self) -> None:
        try:
            if self._file.stat().st_mtime_ns != self._modified_ns:
                self._read()
        except (OSError, ConfigurationError):
            return

    def _read(self) -> None:
        try:
            self._modified_ns = self._file.stat().st_mtime_ns
            token = self._file.read_bytes().strip()
        except OSError as error:
            raise ConfigurationError(
                faults=[f"token file '{self._file}' cannot be read: {error.strerror}"]
            ) from error
        if len(token) < MIN_TOKEN_BYTES:
            raise ConfigurationError(
                faults=[
                    f"token file '{self._file}' holds {len(token)} bytes; "
                    f"allowed are {MIN_TOKEN_BYTES} or more"
                ]
            )
        self._token = token
