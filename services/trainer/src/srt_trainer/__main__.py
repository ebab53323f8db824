"""``python -m srt_trainer --config trainer.json``: one process that trains one job.

Exit status: 0 every step is done; 2 the job description is wrong; 130 or 143 stopped by SIGINT or
SIGTERM before the end; 1 anything else. Started again with the same file it goes on where it was.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from srt_common.errors import ConfigurationError, SRTError
from srt_common.telemetry.setup import configure
from srt_trainer.serving import ServingSettings
from srt_trainer.settings import TrainerSettings, load_settings

EXIT_MISCONFIGURED = 2
EXIT_SIGNAL_BASE = 128
SHOWN_MESSAGES = (SRTError, OSError, FloatingPointError)
"""Errors whose message is made by us or the system; any other may quote a prompt or a
completion."""

_LOGGER = logging.getLogger("srt_trainer")


def main() -> int:
    """The whole process; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m srt_trainer", description="SRT's trainer.")
    parser.add_argument("--config", type=Path, required=True, help="path of trainer.json")
    arguments = parser.parse_args()
    telemetry = configure("srt-trainer")
    sys.excepthook = log_crash
    try:
        settings, serving = load_settings(arguments.config), ServingSettings.from_environment()
        shown = settings.model_dump(mode="json") | {"serving": serving.resolved()}
        _LOGGER.info("settings", extra={"settings": shown})
        return asyncio.run(train_until_signalled(settings, serving))
    except ConfigurationError as error:
        for fault in error.faults:
            _LOGGER.error("misconfigured", extra={"fault": fault})  # noqa: TRY400
        return EXIT_MISCONFIGURED
    finally:
        telemetry.close()


async def train_until_signalled(settings: TrainerSettings, serving: ServingSettings) -> int:
    """Train, or stop at the first SIGINT or SIGTERM; the exit status."""
    from srt_trainer.assembly import train  # slow: wrong settings need not wait for it

    training = asyncio.create_task(train(settings, serving))
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        training.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        await training
    except asyncio.CancelledError:
        if not received:
            raise
        _LOGGER.info("stopped before the end", extra={"signal": received[0].name})
        return EXIT_SIGNAL_BASE + received[0]
    return 0


def log_crash(kind: type[BaseException], error: BaseException, place: TracebackType | None) -> None:
    """Log what ended the process, without texts that may hold prompts or completions."""
    del kind, place
    for cause in _flat(error):
        frames = traceback.extract_tb(cause.__traceback__)
        _LOGGER.critical(
            "the trainer failed",
            extra={
                "error": type(cause).__name__,
                "reason": str(cause) if isinstance(cause, SHOWN_MESSAGES) else "",
                "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
            },
        )


def _flat(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _flat(inner)
    else:
        yield error


if __name__ == "__main__":
    sys.exit(main())
