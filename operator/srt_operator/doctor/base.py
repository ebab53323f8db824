"""What a check says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "OK"
    WARN = "WARN"
    """Something will not work, or not as well; jobs may run."""
    FAIL = "FAIL"
    """No job runs before this is mended."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    what: str
    level: Level
    text: str
    """What was found, and what to do about it if it is not well."""


def has_failed(checks: Sequence[Check]) -> bool:
    """Whether something must be mended."""
    return any(check.level is Level.FAIL for check in checks)
