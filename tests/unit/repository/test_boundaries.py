"""Boundaries import-linter cannot say: parts of other packages, the environment, a slim core."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = [
    path
    for folder in ("srt_common/src", "services", "operator")
    for path in (ROOT / folder).rglob("*.py")
]
SDK_USERS = {"srt_common/telemetry"}
ENVIRONMENT_READERS = {"srt_common/settings.py", "srt_common/telemetry/setup.py"}
STARTERS = {
    "srt_operator/backends",
    "srt_operator/cli",
    "srt_rollout/engine.py",
    "srt_rollout/engine_guard.py",
}

IMPORT_ALL = """
import importlib, pkgutil, sys, srt_common
for module in pkgutil.walk_packages(srt_common.__path__, "srt_common."):
    if module.name != "srt_common.task_queue":
        importlib.import_module(module.name)
print(sorted({"torch", "vllm", "kopf", "celery", "transformers"} & set(sys.modules)))
"""


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_one_of(path: Path, allowed: set[str]) -> bool:
    return any(f"/{part}" in str(path) for part in allowed)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_module_imports_only_what_its_place_allows(path: Path) -> None:
    names = set(imported(path))
    if not is_one_of(path, SDK_USERS):
        assert not any(name.startswith("opentelemetry.sdk") for name in names)
    if not is_one_of(path, STARTERS):
        assert not names & {"subprocess", "asyncio.subprocess"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_environment_is_read_in_two_places(path: Path) -> None:
    if is_one_of(path, ENVIRONMENT_READERS):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
            assert not (isinstance(node.value, ast.Name) and node.value.id == "os"), node.lineno


def test_the_core_is_importable_without_torch_vllm_or_celery() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
