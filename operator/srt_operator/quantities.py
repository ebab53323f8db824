"""Kubernetes quantities of bytes (``256Mi``, ``2G``, ``1048576``). Pure.

* Only what bytes need: whole numbers with an optional binary (Ki..Pi) or decimal (k..P) suffix.
"""

from __future__ import annotations

import re
from typing import Final

_SUFFIXES: Final = {
    "": 1,
    **{letter + "i": 2 ** (10 * power) for power, letter in enumerate("KMGTP", start=1)},
    **{letter: 10 ** (3 * power) for power, letter in enumerate("kMGTP", start=1)},
}
_QUANTITY: Final = re.compile(r"([0-9]{1,18})([KMGTP]i|[kMGTP])?")

PATTERN: Final = f"^{_QUANTITY.pattern}$"
"""Of a quantity given as text."""

ALLOWED: Final = "bytes as a whole number, or with a suffix such as 256Mi or 2G"


def parse_bytes(value: object) -> int:
    """Bytes that a quantity stands for.

    Raises:
        ValueError: not a quantity of bytes.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"allowed is {ALLOWED}")
    unit: int = _SUFFIXES[match[2] or ""]
    return int(match[1]) * unit


def format_bytes(num_bytes: int) -> str:
    """The shortest quantity that means exactly ``num_bytes``, in binary suffixes."""
    for letter in "PTGMK":
        unit = _SUFFIXES[letter + "i"]
        if num_bytes and num_bytes % unit == 0:
            return f"{num_bytes // unit}{letter}i"
    return str(num_bytes)


def as_text(value: object) -> object:
    """A quantity given as a bare number, as text; anything else as it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value
