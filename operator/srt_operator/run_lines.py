"""Reads the line files of a run: metrics, bubbles, engine readings.

* A line cut short (a kill, or being written right now) is skipped.
* Files of a run that is going on may grow, and the trainer's may be cut back on resume.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """Every whole line, in order; a missing file has none."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    lines = []
    for row in text.splitlines():
        try:
            line = json.loads(row)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


class LineFile:
    """A line file that is looked at again and again; read only when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._lines: list[Line] = []

    def lines(self) -> list[Line]:
        """All lines now."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return []
        seen = (stat.st_mtime_ns, stat.st_size)
        if seen != self._seen:
            self._seen, self._lines = seen, read_lines(self._path)
        return self._lines


def of_kind(lines: list[Line], kind: str) -> list[Line]:
    """Lines whose ``kind`` it is."""
    return [line for line in lines if line.get("kind") == kind]


def append_line(path: Path, line: Line) -> None:
    """Add one line; readers see all of it or nothing."""
    with path.open("a") as file:
        file.write(json.dumps(line, separators=(",", ":")) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old one or the new one."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)
