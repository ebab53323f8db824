"""Every exception of the suite.

    SRTError
    +-- ConfigurationError          a setting or a job is wrong: stop and tell the user
    +-- MessageError                bytes that cannot be a message: drop them and count
    |   +-- VersionMismatch         written by a newer version
    |   +-- MessageTooLarge         beyond the limits of messages.codec
    +-- TreeError                   an update or an image that a tree refuses: drop it and count
    +-- TreeStoreError              the shared cache is in trouble: go on undrafted and count
    |   +-- TreeStoreUnavailable    no answer in time: a retry is safe
    +-- CoordinationUnavailable     the coordination server is of no use now: a retry is safe
    +-- EngineError                 a rollout engine said no
    |   +-- EngineUnavailable       not reachable or draining: try another one
    |   +-- EngineBusy              no room for this lane now: try later
    |   +-- EngineRefused           the request itself is wrong: do not retry
    +-- LeaseLost                   somebody else owns it now: stop acting on it

Messages are made inside from the fields, so tests assert fields and raise sites stay short. All
survive pickling (Celery and vLLM pickle what crosses their processes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

ErrorType = TypeVar("ErrorType", bound="SRTError")


def _rebuild(kind: Callable[..., ErrorType], fields: dict[str, Any]) -> ErrorType:
    return kind(**fields)


class SRTError(Exception):
    """Base of all. ``fields`` are the keyword arguments it was made from."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.fields = fields

    def __reduce__(self) -> tuple[Callable[..., SRTError], tuple[dict[str, Any]]]:
        """Rebuild from the fields: the message is made again from them."""
        return partial(_rebuild, type(self)), (self.fields,)


class ConfigurationError(SRTError):
    """Settings or a job file are wrong. Nothing has been started; show every fault and stop."""

    def __init__(self, *, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults), faults=tuple(faults))
        self.faults = tuple(faults)


class MessageError(SRTError):
    """Bytes that are not a message of ours. Drop and count."""

    def __init__(self, *, channel: str, reason: str) -> None:
        super().__init__(f"{channel}: {reason}", channel=channel, reason=reason)
        self.channel = channel
        self.reason = reason


class VersionMismatch(MessageError):
    """A message of a version this build does not read. Drop and count; upgrade the reader."""


class MessageTooLarge(MessageError):
    """A message beyond the limits. Drop and count."""


class TreeError(SRTError):
    """A tree refused an update or an image and has not changed. Drop and count."""

    def __init__(self, *, operation: str, reason: str) -> None:
        super().__init__(f"{operation}: {reason}", operation=operation, reason=reason)
        self.operation = operation
        self.reason = reason


class TreeStoreError(SRTError):
    """The shared cache cannot serve. Rollouts go on undrafted; count it."""


class TreeStoreUnavailable(TreeStoreError):
    """No answer in time. Safe to retry: appends are idempotent."""

    def __init__(self, *, address: str, reason: str) -> None:
        super().__init__(
            f"no answer from the tree store at {address}: {reason}", address=address, reason=reason
        )
        self.address = address
        self.reason = reason


class CoordinationUnavailable(SRTError):
    """The server that holds phases, leases and the look-ahead window did not answer, or with what
    cannot be read. Safe to retry.
    """

    def __init__(self, *, address: str, reason: str) -> None:
        super().__init__(
            f"nothing from the coordination server at {address}: {reason}",
            address=address,
            reason=reason,
        )
        self.address = address
        self.reason = reason


class EngineError(SRTError):
    """A rollout engine could not do what was asked."""

    def __init__(self, *, engine: str, reason: str) -> None:
        super().__init__(f"{engine}: {reason}", engine=engine, reason=reason)
        self.engine = engine
        self.reason = reason


class EngineUnavailable(EngineError):
    """Not reachable, not ready or draining. Try another engine, or the same one later."""


class EngineBusy(EngineError):
    """No room for a request of this lane. Try later; run-ahead gives the chunk up."""


class EngineRefused(EngineError):
    """The request is wrong. Do not retry it."""


class LeaseLost(SRTError):
    """Another holder has taken a lease over. Stop acting on what it protects."""

    def __init__(self, *, lease: str, epoch: int) -> None:
        super().__init__(f"lease {lease} was lost at epoch {epoch}", lease=lease, epoch=epoch)
        self.lease = lease
        self.epoch = epoch
