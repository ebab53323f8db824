"""The limits of CONTRIBUTING.md, counted: file and function length, layout traps, leaked paths."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def tracked(*suffixes: str) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [ROOT / name for name in names if name.endswith(suffixes) and (ROOT / name).is_file()]


@pytest.mark.parametrize(
    "path", tracked(".py", ".rs", ".pyi"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    if path.suffix != ".pyi":
        assert text.count("\n") <= MAX_FILE_LINES
    if path.suffix == ".rs":
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name}: {length} lines"


def test_the_operator_folder_is_no_package() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_our_packages_are_installed_and_not_namespace_folders() -> None:
    import srt_common

    assert srt_common.__file__ is not None


def test_no_large_file_but_the_demo_model_is_tracked() -> None:
    large = [path for path in tracked("") if path.stat().st_size > 2_000_000]
    assert [path.name for path in large] in ([], ["model.safetensors"])
