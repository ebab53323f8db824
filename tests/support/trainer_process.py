"""A trainer in a process of its own that can be told to die at an exact point.

* Forked from a server that has imported torch and the trainer already, so it starts at once.
* Point n is the n-th time the process is about to flush, rename or remove a file: whatever it
  leaves behind for the next process is decided there.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import runpy
import signal
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "srt_trainer.assembly",
        "reasoning_gym",
        "torch._dynamo",
        "transformers.generation.utils",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.qwen2.modeling_qwen2",
        "transformers.models.qwen2.tokenization_qwen2",
    ]
)

FLUSH = "srt.flush"
POINTS = frozenset({FLUSH, "os.rename", "os.remove", "shutil.rmtree"})
"""Audit events."""


def start_trainer(document: dict[str, Any], *, die_at: int | None = None) -> ForkServerProcess:
    """Start a job; with ``die_at`` it kills itself at that point, with SIGKILL."""
    process = CONTEXT.Process(target=_train, args=(document, die_at), daemon=True)
    process.start()
    return process


def _train(document: dict[str, Any], die_at: int | None) -> None:
    from srt_trainer.assembly import train
    from srt_trainer.serving import ServingSettings
    from srt_trainer.settings import parse_settings

    if die_at is not None:
        _die_at(die_at)
    asyncio.run(train(parse_settings(document), ServingSettings()))


def start_program(config: Path, *, environment: dict[str, str], log: Path) -> ForkServerProcess:
    """Start ``python -m srt_trainer --config``, its environment extended, its stderr in a file."""
    process = CONTEXT.Process(target=_main, args=(config, environment, log), daemon=True)
    process.start()
    return process


def _main(config: Path, environment: dict[str, str], log: Path) -> None:
    os.environ.update(environment)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.argv = ["srt_trainer", "--config", str(config)]
    try:
        runpy.run_module("srt_trainer", run_name="__main__", alter_sys=True)
    except Exception:  # noqa: BLE001 - the interpreter's own last resort, which a fork lacks
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def _die_at(point: int) -> None:
    num_points = 0

    def count(event: str, _: object) -> None:
        nonlocal num_points
        if event in POINTS:
            num_points += 1
            if num_points == point:
                os.kill(os.getpid(), signal.SIGKILL)

    flush = os.fsync

    def counted_flush(fd: Any) -> None:
        sys.audit(FLUSH)
        flush(fd)

    os.fsync = counted_flush
    sys.addaudithook(count)
