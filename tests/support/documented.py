"""Commands and their outputs in a page: ``console`` blocks, run again and compared or written anew.

* A line ``$ command`` is run by bash; the lines up to the next one are its output.
* ``<!-- stage: NAME -->`` before a block: what must have happened before its commands run.
* Ages, instants, ids and runs of blanks may differ, and so may the order of lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"(?:<!-- stage: (?P<stage>\w+) -->\n)?```console\n(?P<text>.*?)```\n", re.DOTALL
)
_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "INSTANT"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UID"),
    (re.compile(r"(Resource Version|Generation):\s+\d+"), r"\1: N"),
    (re.compile(r"\b\d+ s old"), "N s old"),
    (re.compile(r"\b(\d+[dhms])+\b|<unknown>|<invalid>"), "AGE"),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"-{3,}"), "---"),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """One command and what the page says it prints."""

    stage: str | None
    """What must have happened first; None: nothing more than before the command above."""
    command: str
    output: str


def shown_in(page: Path) -> Iterator[Shown]:
    """Every command, in order."""
    for block in _BLOCK.finditer(page.read_text()):
        stage = block["stage"]
        for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield Shown(stage, command, output)
            stage = None


def alike(output: str) -> list[str]:
    """The lines that must be the same."""
    for pattern, word in _VARYING:
        output = pattern.sub(word, output)
    return sorted({line.strip() for line in output.splitlines()} - {""})


def write_anew(page: Path, run: Callable[[Shown], str]) -> None:
    """Put what commands print now under them."""
    outputs = iter([run(shown) for shown in shown_in(page)])

    def block(match: re.Match[str]) -> str:
        commands = re.findall(r"^\$ .*$", match["text"], flags=re.MULTILINE)
        text = "".join(f"{command}\n{_trimmed(next(outputs))}" for command in commands)
        head = match[0].partition("```console\n")[0]
        return f"{head}```console\n{text}```\n"

    page.write_text(_BLOCK.sub(block, page.read_text()))


def _trimmed(output: str) -> str:
    """Without blanks at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in output.splitlines())
