"""The reference pages in the repository are those that the code makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from srt_operator import fields, reference
from srt_operator.resources import SRTJob

FOLDER = Path(__file__).parents[3] / "docs" / "reference"


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("srtjob.md", reference.srtjob_page),
        ("rolloutpool.md", reference.pool_page),
        ("treecache.md", reference.cache_page),
        ("cli.md", reference.cli_page),
    ],
)
def test_a_page_has_not_drifted(name: str, page: object) -> None:
    assert callable(page)
    assert (FOLDER / name).read_text() == page(), "run python -m srt_operator.reference"


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda path: path.name)
def test_every_row_of_a_table_has_the_cells_of_its_head(page: Path) -> None:
    head = 0
    for line in page.read_text().splitlines():
        num_cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert num_cells in (0, head) or head == 0, line
        head = num_cells


def test_every_field_says_what_it_is() -> None:
    spec = fields.by_alias(SRTJob)["spec"].annotation
    model = fields.submodel(spec)
    assert model is not None
    silent = [path for path, field in fields.walk(model) if not field.description]
    assert silent == []


def test_pages_are_written_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["reference", str(tmp_path / "reference")])
    reference.main()
    assert sorted(path.name for path in (tmp_path / "reference").iterdir()) == [
        "cli.md",
        "rolloutpool.md",
        "srtjob.md",
        "treecache.md",
    ]
