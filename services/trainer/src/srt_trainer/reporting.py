"""Where the numbers of a run go: ``metrics.jsonl``, and TensorBoard or Weights & Biases when asked
for.

* ``metrics.jsonl`` has one line per finished step and per evaluation, also after crashes: a line is
  flushed to disk whole, what a crash cut short is removed, and a line that is there is not written
  again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from srt_trainer.durable_files import append_durably, write_durably
from srt_trainer.report_lines import Line

WANDB_ID_FILE = "wandb_id"


class Sink(Protocol):
    """A place beside the file that shows numbers over steps."""

    def write(self, line: Line) -> None: ...

    def close(self) -> None: ...


class Reporter:
    """Writes each line once."""

    def __init__(self, path: Path, sinks: Sequence[Sink] = ()) -> None:
        self._path = path
        self._sinks = sinks
        self.lines = _read_lines(path)

    def has(self, kind: Literal["step", "eval"], step: int) -> bool:
        """Whether that line is written already."""
        return any(line["kind"] == kind and line["step"] == step for line in self.lines)

    def write(self, line: Line) -> None:
        """Report a step or an evaluation, unless it has been."""
        if self.has(line["kind"], line["step"]):
            return
        append_durably(self._path, _encode(line))
        self.lines.append(line)
        for sink in self._sinks:
            sink.write(line)

    def keep_before(self, num_steps: int) -> None:
        """Forget what was reported of steps that are done anew: all but the first ``num_steps``."""
        kept = [
            line
            for line in self.lines
            if line["step"] < num_steps or (line["kind"] == "eval" and line["step"] == num_steps)
        ]
        self.lines = kept
        write_durably(self._path, b"".join(_encode(line) for line in kept))

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def _encode(line: Line) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def _read_lines(path: Path) -> list[Line]:
    """The whole lines of a file; what follows the last line break is the remains of a crash."""
    if not path.exists():
        return []
    *whole, _ = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in whole]


class TensorBoardSink:
    """Scalars for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))

    def write(self, line: Line) -> None:
        for name, value in _scalars(line).items():
            self._writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """Scalars for Weights & Biases; configured by its own ``WANDB_*`` variables."""

    def __init__(self, job: str, folder: Path) -> None:
        import wandb

        self._run: Any = wandb.init(
            project="srt", id=_run_id(folder), name=job, group=job, dir=folder, resume="allow"
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, line: Line) -> None:
        scalars = {f"{line['kind']}/{name}": value for name, value in _scalars(line).items()}
        self._run.log({"step": line["step"], **scalars})

    def close(self) -> None:
        self._run.finish()


def _run_id(folder: Path) -> str:
    """Stays with the run folder: what is resumed goes on, another run of the job is another."""
    file = folder / WANDB_ID_FILE
    if not file.exists():
        write_durably(file, secrets.token_hex(8).encode())
    return file.read_text()


def _scalars(line: Line) -> dict[str, float]:
    return {name: value for name, value in line.items() if isinstance(value, int | float)}


def open_sinks(names: Sequence[str], *, job: str, run_dir: Path) -> list[Sink]:
    """The sinks a job asks for: ``tensorboard``, ``wandb``."""
    sinks: list[Sink] = []
    if "tensorboard" in names:
        sinks.append(TensorBoardSink(run_dir / "tensorboard"))
    if "wandb" in names:
        sinks.append(WandbSink(job, run_dir))
    return sinks
