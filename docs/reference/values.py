"""Writes `values.md` from the chart's schema and defaults; ``--check`` fails where it is stale."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "srt"
PAGE = Path(__file__).with_name("values.md")

HEAD = """# Values of the chart

Made from `charts/srt/values.schema.json` and `values.yaml` by `python docs/reference/values.py`;
a test fails where it is stale. A key that is not listed, a wrong type or a value out of bounds is
refused by helm, with its name.

| value | default | what it is |
|---|---|---|
"""


def rows(schema: dict[str, Any], defaults: Any, path: str = "") -> Iterator[str]:
    """A row for each value, in the schema's order."""
    for key, value in schema["properties"].items():
        name = f"{path}.{key}".removeprefix(".")
        if name in ("global", "srt-crds"):
            continue
        default = defaults.get(key) if isinstance(defaults, dict) else None
        if value.get("type") == "object" and value["properties"] and name != "image.digests":
            yield from rows(value, default, name)
        else:
            shown = "" if default in ("", None) else f"`{json.dumps(default)}`"
            yield f"| `{name}` | {shown} | {meaning(value)} |"


def meaning(value: dict[str, Any]) -> str:
    """What the value is, and what is allowed where that is a short list or a range."""
    text = str(value["description"])
    if "enum" in value:
        text += f" One of {', '.join(value['enum'])}."
    bounds = [
        f"{word} {value[key]}"
        for key, word in (("minimum", "from"), ("maximum", "to"))
        if key in value
    ]
    if bounds:
        text += f" {' '.join(bounds).capitalize()}."
    return text.replace("|", "\\|")


def page() -> str:
    """The whole page."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    return HEAD + "\n".join(rows(schema, defaults)) + "\n"


def main() -> int:
    """Write the page, or compare."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page())
        return 0
    if PAGE.exists() and PAGE.read_text() == page():
        return 0
    print("docs/reference/values.md is stale; run python docs/reference/values.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
