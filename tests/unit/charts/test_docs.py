"""What the pages about a cluster name exists: values, files, make targets, alerts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "charts" / "srt" / "values.schema.json").read_text())
PAGES = [
    ROOT / "docs" / f"{name}.md"
    for name in ("install", "operate", "upgrade", "uninstall", "troubleshoot")
]
TOP = "|".join(key for key in SCHEMA["properties"] if key not in ("global", "profile", "operator"))


def has(path: str) -> bool:
    """Whether the schema knows a value."""
    part: dict[str, Any] = SCHEMA
    for key in path.split("."):
        for reference in part.get("allOf", []):
            part = SCHEMA["definitions"][reference["$ref"].rsplit("/", 1)[1]]
        if key not in part.get("properties", {}):
            return False
        part = part["properties"][key]
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_value_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(rf"`((?:{TOP}|operator)\.[A-Za-z.]+)[`:]", text))
    named |= set(re.findall(r"--set ([A-Za-z.]+)=", text))
    assert [value for value in sorted(named) if not has(value)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_and_target_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", text):
        assert (page.parent / link).exists(), link
    for file in re.findall(r"\b((?:charts|docs)/[a-z/._-]+[a-z])", text):
        assert (ROOT / file).exists(), file
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z][a-z-]+)", text):
        assert f"\n{target}:" in makefile, target


def test_every_alert_has_its_row() -> None:
    (group,) = yaml.safe_load((ROOT / "charts/srt/files/alerts.yaml").read_text())["groups"]
    alerts = {rule["alert"] for rule in group["rules"]}
    text = (ROOT / "docs" / "operate.md").read_text()
    assert set(re.findall(r"^\| `(SRT[A-Za-z]+)` \|", text, re.MULTILINE)) == alerts
