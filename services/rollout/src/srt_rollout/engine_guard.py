"""Ends a whole engine with its starter: ``python -m srt_rollout.engine_guard COMMAND...``.

vLLM is several processes, and those below its front end live on when that is killed. The guard runs
the command in its own process group (the starter makes it the leader of a new session) and

* exits with the command's status when that ends; SIGTERM goes on to the command;
* kills the whole group, itself included, when its standard input closes: the starter is gone.

It imports nothing of the suite, so it is there in milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path


def run(command: list[str]) -> int:
    """Run ``command`` to its end; its exit status, 128 + signal number when a signal ended it."""
    child = os.fork()
    if child == 0:
        _become(command)
    signal.signal(signal.SIGTERM, lambda *_: _forward(child))
    threading.Thread(target=_watch_starter, daemon=True).start()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(command: list[str]) -> None:
    """Turn the fork into the command, without the starter's pipe."""
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        os.execvp(command[0], command)
    finally:
        os._exit(127)


def _forward(child: int) -> None:
    os.kill(child, signal.SIGTERM)


def _watch_starter() -> None:
    """Block until the starter's end of the pipe closes, then end everything."""
    while os.read(0, 64):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
