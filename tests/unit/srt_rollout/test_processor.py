"""A CPU engine computes in a type its processor has instructions for."""

from __future__ import annotations

from pathlib import Path

import pytest

from srt_rollout import processor
from srt_rollout.processor import dtype_of, has_bfloat16


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16\nflags\t\t: fpu avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("flags\t\t: fpu avx512_bf16\nflags\t\t: fpu avx2\n", False),
        ("vmx flags\t: ept avx512_bf16\n", False),
        ("", False),
    ],
)
def test_bfloat16_counts_only_where_every_processor_has_it(cpuinfo: str, expected: bool) -> None:
    assert has_bfloat16(cpuinfo) is expected


def test_a_named_type_is_kept() -> None:
    assert dtype_of("bfloat16") == "bfloat16"
    assert dtype_of("float32") == "float32"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [("flags : avx2\n", "float32"), ("flags : avx512_bf16\n", "auto")],
)
def test_auto_follows_the_processor_of_a_cpu_engine(
    cpuinfo: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text(cpuinfo)
    monkeypatch.setattr(processor, "_CPUINFO", told)
    assert dtype_of("auto") == expected
