"""What every benchmark writes beside its figures: date, commit, hardware, command."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent


def page(name: str, suffix: str) -> Path:
    """The dated file of a benchmark."""
    return FOLDER / f"{_today()}-{name}{suffix}"


def describe(command: str) -> str:
    """One sentence for the head of a page."""
    return (
        f"{_today()}, commit {_commit()}, {os.cpu_count()} cores {_processor()}, no GPU, "
        f"Python {platform.python_version()}. Command: `{command}`."
    )


def _processor() -> str:
    """Its name where Linux tells, and the instructions that matter here."""
    told = Path("/proc/cpuinfo").read_text() if platform.system() == "Linux" else ""
    names = [line.partition(":")[2] for line in told.splitlines() if line.startswith("model name")]
    name = names[0].strip() if names else platform.machine()
    return f"{name} (AVX-512 {'yes' if 'avx512f' in told else 'no'})"


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _commit() -> str:
    """Short hash of HEAD, marked when tracked files differ from it."""
    head = _git("rev-parse", "--short", "HEAD")
    return f"{head} and changes" if _git("status", "--porcelain", "-uno") else head


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
