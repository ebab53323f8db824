"""Files that are whole or absent after a crash of the process or the machine.

* A reader never sees a part: content is written beside its place, flushed to disk, then renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART_SUFFIX = ".part"
"""Of what is still being written; leftovers of a crash are overwritten by the next attempt."""


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file by ``content``; when this returns it survives a power cut."""
    part = path.with_name(path.name + PART_SUFFIX)
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _flush_folder(path.parent)


def append_durably(path: Path, content: bytes) -> None:
    """Append to a file; a crash may leave a part of ``content`` at its end, never harm what was
    there.
    """
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def durable_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``path`` when the block ends without an error."""
    part = path.with_name(path.name + PART_SUFFIX)
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    yield part
    for file in part.iterdir():
        _flush_file(file)
    _flush_folder(part)
    if path.exists():
        shutil.rmtree(path)
    part.replace(path)
    _flush_folder(path.parent)


def _flush_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
