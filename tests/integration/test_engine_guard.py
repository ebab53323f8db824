"""The engine ends with the gateway, however that ends: also what vLLM would leave running.

Shell commands stand in for vLLM's processes here; test_gateway_on_vllm.py does it for real.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.gateway_process import has_ended

STARTER = """
import subprocess, sys, time
guard = subprocess.Popen(
    [sys.executable, "-m", "srt_rollout.engine_guard", *sys.argv[1:]],
    stdin=subprocess.PIPE, start_new_session=True,
)
print(guard.pid, flush=True)
sys.exit(guard.wait())
"""
TREE = "sleep 60 & echo $! > {file}; exec sleep 60"
"""A front end with a child of its own, whose id it writes down."""


def start(*command: str) -> tuple[subprocess.Popen[str], int]:
    """A starter with a guarded command, and the guard's id."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, *command], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    return starter, int(starter.stdout.readline())


def wait_until_ended(*pids: int) -> None:
    deadline = time.monotonic() + 5
    while not all(has_ended(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process outlived its starter by 5 s"
        time.sleep(0.02)


def read_when_written(file: Path) -> int:
    deadline = time.monotonic() + 5
    while not (file.exists() and file.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(file.read_text())


def test_sigkill_of_the_starter_ends_the_command_and_its_children(tmp_path: Path) -> None:
    starter, guard = start("sh", "-c", TREE.format(file=tmp_path / "pid"))
    grandchild = read_when_written(tmp_path / "pid")
    assert not has_ended(grandchild)
    starter.kill()
    starter.communicate()
    wait_until_ended(guard, grandchild)


@pytest.mark.parametrize(("command", "status"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_the_commands_own_status_is_passed_on(command: str, status: int) -> None:
    starter, _ = start("sh", "-c", command)
    starter.communicate(timeout=10)
    assert starter.returncode == status


def test_sigterm_goes_on_to_the_command(tmp_path: Path) -> None:
    script = f"trap 'exit 7' TERM; echo 1 > {tmp_path / 'pid'}; while :; do sleep 0.05; done"
    starter, guard = start("sh", "-c", script)
    read_when_written(tmp_path / "pid")
    os.kill(guard, signal.SIGTERM)
    starter.communicate(timeout=10)
    assert starter.returncode == 7


def test_a_command_that_does_not_exist_is_127() -> None:
    starter, _ = start("/nonexistent/vllm")
    starter.communicate(timeout=10)
    assert starter.returncode == 127
