"""Finished rollouts of steps that no checkpoint holds yet.

A step goes: sampled and scored -> `Journal.write` -> update -> ... -> checkpoint ->
`Journal.prune`.

* Written before the update, durably and whole: a crash later replays the same rollouts through the
  same update, so a finished step is never lost and its rollouts never sampled or counted twice.
* A crash earlier leaves nothing of the step, which is then sampled afresh as a whole: to keep only
  the rollouts that happened to be finished would favour short ones.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from srt_trainer.durable_files import write_durably
from srt_trainer.rollouts import StepRecord

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(StepRecord)


class Journal:
    """One file per step in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, record: StepRecord) -> None:
        """Keep a step; returns when it is on disk."""
        write_durably(self._path(record.step), _ENCODER.encode(record))

    def read(self, step: int) -> StepRecord | None:
        """The step as it was written, or None."""
        path = self._path(step)
        return _DECODER.decode(path.read_bytes()) if path.exists() else None

    def prune(self, first_kept: int) -> None:
        """Forget the steps before ``first_kept``."""
        for path in self._folder.glob("step-*.msgpack"):
            if path < self._path(first_kept):
                path.unlink()

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.msgpack"
