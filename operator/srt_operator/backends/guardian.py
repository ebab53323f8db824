"""Ends a process and everything below it: ``guardian.py GRACE_SECONDS COMMAND...``.

* Its starter holds the other end of its standard input. When that closes, the starter is gone: the
  command gets SIGTERM and, `ORPHAN_GRACE_SECONDS` later, everything below is killed.
* SIGTERM or SIGINT: the command gets SIGTERM and ``GRACE_SECONDS`` until everything is killed.
* The command ended: what it left has `LINGER_SECONDS` to tidy up, then is killed. The guardian
  exits with the command's status, 128 + signal number when a signal ended it.
* Killed itself, it takes the command along (parent-death signal).

Processes that detach (a new session, a double fork) stay below it: it adopts orphans. Linux only.
Imports the standard library alone and runs as a file, so it is there in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

ORPHAN_GRACE_SECONDS: Final = 2.0
LINGER_SECONDS: Final = 0.5
_LOOK_SECONDS: Final = 0.05
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


class Guardian:
    """One command from its start to the last of its descendants."""

    def __init__(self, command: Sequence[str], *, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._kill_at: float | None = None
        self._exit_code: int | None = None
        self._wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        guardian = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            _become(command, guardian)

    def run(self) -> int:
        """Watch until nothing is left; the exit status."""
        watched = [0, self._wake_read]
        while self._exit_code is None:
            timeout = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
            ready, _, _ = select.select(watched, [], [], timeout)
            if 0 in ready and not os.read(0, 4096):
                watched.remove(0)
                self._terminate(min(self._grace_seconds, ORPHAN_GRACE_SECONDS))
            if self._wake_read in ready:
                self._on_signals(os.read(self._wake_read, 4096))
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                break
        self._let_linger()
        self._kill_descendants()
        return 128 + signal.SIGKILL if self._exit_code is None else self._exit_code

    def _on_signals(self, numbers: bytes) -> None:
        self._reap()
        if set(numbers) & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
            self._terminate(self._grace_seconds)

    def _terminate(self, grace_seconds: float) -> None:
        """Ask the command to end; a later call may only shorten its time."""
        deadline = time.monotonic() + grace_seconds
        self._kill_at = deadline if self._kill_at is None else min(self._kill_at, deadline)
        if self._exit_code is None:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGTERM)

    def _reap(self) -> None:
        """Collect everything below that has ended."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._child:
                    code = os.waitstatus_to_exitcode(status)
                    self._exit_code = code if code >= 0 else 128 - code

    def _let_linger(self) -> None:
        """Give what an ended command left the time to end by itself."""
        until = time.monotonic() + LINGER_SECONDS
        while self._exit_code is not None and time.monotonic() < until:
            if not descendants(os.getpid()):
                return
            time.sleep(_LOOK_SECONDS)
            self._reap()

    def _kill_descendants(self) -> None:
        """SIGKILL until nothing is left: orphans come back to us, so none escapes."""
        while found := descendants(os.getpid()):
            for pid in found:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_LOOK_SECONDS)
            self._reap()


def descendants(root: int) -> list[int]:
    """Processes below ``root``, zombies left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def _become(command: Sequence[str], guardian: int) -> NoReturn:
    """Turn the fork into the command: its own process group, no standard input of ours."""
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian:  # it died before the signal was asked for
            os._exit(128 + signal.SIGKILL)
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.execvp(command[0], list(command))
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(Guardian(sys.argv[2:], grace_seconds=float(sys.argv[1])).run())
