"""Positions in a shard's log: the ids of a Redis stream, ``<milliseconds>-<sequence>``. Pure."""

from __future__ import annotations

_MAX_SEQUENCE = 2**64 - 1


def parse_cursor(cursor: str) -> tuple[int, int]:
    """Comparable form.

    Raises:
        ValueError: not a cursor.
    """
    milliseconds, separator, sequence = cursor.partition("-")
    if not (separator and milliseconds.isdecimal() and sequence.isdecimal()):
        raise ValueError(f"cursor is {cursor!r}; allowed is <milliseconds>-<sequence>")
    return int(milliseconds), int(sequence)


def format_cursor(position: tuple[int, int]) -> str:
    """The cursor that `parse_cursor` reads."""
    milliseconds, sequence = position
    return f"{milliseconds}-{sequence}"


def is_before(first: str, second: str) -> bool:
    """True when ``first`` is the older position."""
    return parse_cursor(first) < parse_cursor(second)


def successor(cursor: str) -> str:
    """The smallest position after ``cursor``."""
    milliseconds, sequence = parse_cursor(cursor)
    if sequence == _MAX_SEQUENCE:
        return f"{milliseconds + 1}-0"
    return f"{milliseconds}-{sequence + 1}"


def appended_at_unix(cursor: str) -> float:
    """Server time in seconds at which the entry with this id was appended."""
    return parse_cursor(cursor)[0] / 1000
