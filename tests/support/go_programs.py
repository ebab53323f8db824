"""Programs of pinned Go modules, kept outside the repository by the hash of their sources."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path


def kept_at(name: str, sources: Path) -> Path:
    """Where what is built of this folder lies, built or not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    texts = b"".join(path.read_bytes() for path in sorted(sources.iterdir()))
    return cache / "srt" / f"{name}-{hashlib.sha256(texts).hexdigest()[:16]}"


def build(package: str, sources: Path, program: Path) -> None:
    """Without C. A build that is broken off leaves no program."""
    program.parent.mkdir(parents=True, exist_ok=True)
    part = program.with_name(f".{program.name}.part")
    command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(part), package]
    subprocess.run(command, cwd=sources, env=os.environ | {"CGO_ENABLED": "0"}, check=True)
    part.rename(program)
