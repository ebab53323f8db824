"""Nothing outlives its guardian or the one that started it: detached grandchildren included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from srt_operator.backends import guardian

pytestmark = pytest.mark.processes
PATIENCE_SECONDS = 10.0

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a shell script under a guardian; what the test leaves is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def run(script: str, *, grace_seconds: float = 1.0) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", guardian.__file__, str(grace_seconds)]
        process = subprocess.Popen(
            [*command, "sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        for pid in [*guardian.descendants(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def pids_in(path: Path, number: int) -> list[int]:
    """Process ids that a script has written, one a line."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if path.exists() and len(lines := path.read_text().split()) >= number:
            return [int(line) for line in lines]
        time.sleep(0.02)
    raise AssertionError(f"{path} does not name {number} processes")


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def all_end(pids: list[int], seconds: float = PATIENCE_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(map(is_alive, pids)):
            return True
        time.sleep(0.02)
    return False


def family(path: Path) -> str:
    """A process that ignores SIGTERM, with a child in a session of its own that does too."""
    return (
        "trap '' TERM; "
        f"setsid sh -c 'trap \"\" TERM; echo $$ >> {path}; sleep 300' & "
        f"echo $$ >> {path}; sleep 300"
    )


def test_a_command_ends_with_its_own_status(start: Start) -> None:
    assert start("exit 7").wait(PATIENCE_SECONDS) == 7
    assert start("kill -KILL $$").wait(PATIENCE_SECONDS) == 128 + signal.SIGKILL


def test_what_a_command_leaves_running_is_killed(start: Start, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"setsid sh -c 'echo $$ > {pids}; sleep 300' & while [ ! -s {pids} ]; do :; done"
    assert start(script).wait(PATIENCE_SECONDS) == 0
    assert all_end(pids_in(pids, 1))


def test_sigterm_gives_a_command_time_to_end_in_order(start: Start, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = start(
        f"trap 'sleep 0.3; exit 4' TERM; echo $$ > {ready}; while :; do sleep 0.05; done"
    )
    pids_in(ready, 1)
    process.terminate()
    assert process.wait(PATIENCE_SECONDS) == 4


def test_a_stubborn_family_is_killed_after_its_grace(start: Start, tmp_path: Path) -> None:
    process = start(family(tmp_path / "pids"), grace_seconds=0.3)
    pids = pids_in(tmp_path / "pids", 2)
    process.terminate()
    assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGKILL
    assert all_end(pids)


def test_when_the_starter_is_gone_all_is_gone_within_five_seconds(
    start: Start, tmp_path: Path
) -> None:
    process = start(family(tmp_path / "pids"), grace_seconds=60.0)
    pids = pids_in(tmp_path / "pids", 2)
    assert process.stdin is not None
    process.stdin.close()
    assert all_end([*pids, process.pid], seconds=5.0)


def test_a_killed_guardian_takes_its_command_along(start: Start, tmp_path: Path) -> None:
    process = start(f"echo $$ > {tmp_path / 'pid'}; sleep 300")
    pids = pids_in(tmp_path / "pid", 1)
    process.kill()
    assert all_end(pids)
