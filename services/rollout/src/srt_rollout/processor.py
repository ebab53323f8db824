"""The type an engine on a CPU should compute in. A processor without instructions for bfloat16
emulates it, some ten times slower than float32; vLLM takes it for a float32 model all the same.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_NATIVE_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""As Linux names them; the last one on Arm."""


def dtype_of(wanted: str) -> str:
    """What to tell vLLM: ``auto`` is float32 where its CPU build would have to emulate bfloat16."""
    if wanted != "auto" or not _is_cpu_build() or not _CPUINFO.exists():
        return wanted
    return "auto" if has_bfloat16(_CPUINFO.read_text()) else "float32"


def _is_cpu_build() -> bool:
    """As vLLM's own platforms tell: by the version, or by a package of another name."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        return True


def has_bfloat16(cpuinfo: str) -> bool:
    """Whether every processor that Linux lists multiplies bfloat16 by itself."""
    flags = [
        set(words.split())
        for name, _, words in (line.partition(":") for line in cpuinfo.splitlines())
        if name.strip() in ("flags", "Features")
    ]
    return bool(flags) and all(_NATIVE_FLAGS & found for found in flags)
