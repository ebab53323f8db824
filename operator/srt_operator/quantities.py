"""Kubernetes quantities (``500m``, ``1k``, ``256Mi``, ``2e3``), and those of bytes. Pure.

* Every quantity is finite: at most 32 characters, an exponent of at most two digits.
* Bytes need less: whole numbers with an optional binary (Ki..Pi) or decimal (k..P) suffix.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_SUFFIXES: Final = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{letter + "i": Fraction(2 ** (10 * power)) for power, letter in enumerate("KMGTPE", start=1)},
    **{letter: Fraction(10 ** (3 * power)) for power, letter in enumerate("kMGTPE", start=1)},
}
_QUANTITY: Final = re.compile(r"([0-9]+(\.[0-9]+)?)([KMGTPE]i|[mkMGTPE]|[eE]([0-9]{1,2}))?")
_BYTES: Final = re.compile(r"([0-9]{1,18})([KMGTP]i|[kMGTP])?")

MAX_CHARACTERS: Final = 32
"""Of a quantity given as text."""

QUANTITY_PATTERN: Final = f"^{_QUANTITY.pattern}$"
"""Of any quantity given as text."""

PATTERN: Final = f"^{_BYTES.pattern}$"
"""Of a quantity of bytes given as text."""

QUANTITY_ALLOWED: Final = "a Kubernetes quantity, such as 500m, 4 or 16Gi"

ALLOWED: Final = "bytes as a whole number, or with a suffix such as 256Mi or 2G"


def parse(text: str) -> Fraction:
    """What a quantity stands for, exactly.

    Raises:
        ValueError: not a quantity.
    """
    match = _QUANTITY.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if match is None:
        raise ValueError(f"allowed is {QUANTITY_ALLOWED}")
    number, _, suffix, exponent = match.groups()
    if exponent is not None:
        return Fraction(number) * Fraction(10) ** int(exponent)
    return Fraction(number) * _SUFFIXES[suffix or ""]


def parse_bytes(value: object) -> int:
    """Bytes that a quantity stands for.

    Raises:
        ValueError: not a quantity of bytes.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str) or not _BYTES.fullmatch(value):
        raise ValueError(f"allowed is {ALLOWED}")
    return int(parse(value))


def format_bytes(num_bytes: int) -> str:
    """The shortest quantity that means exactly ``num_bytes``, in binary suffixes."""
    for letter in "PTGMK":
        unit = int(_SUFFIXES[letter + "i"])
        if num_bytes and num_bytes % unit == 0:
            return f"{num_bytes // unit}{letter}i"
    return str(num_bytes)


def as_text(value: object) -> object:
    """A quantity given as a bare number, as text; anything else as it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value
