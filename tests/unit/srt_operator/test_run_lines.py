"""Line files: whole lines only, and read again when they have changed."""

from __future__ import annotations

from pathlib import Path

from srt_operator.run_lines import LineFile, append_line, of_kind, read_lines, replace_text


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"kind": "a", "n": 1})
    append_line(path, {"kind": "b"})
    assert read_lines(path) == [{"kind": "a", "n": 1}, {"kind": "b"}]
    assert of_kind(read_lines(path), "b") == [{"kind": "b"}]


def test_a_line_cut_short_and_what_is_no_line_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n[1]\n\n{"a": 2')
    assert read_lines(path) == [{"a": 1}]
    assert read_lines(tmp_path / "missing") == []


def test_a_file_that_was_cut_back_is_read_anew(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines.jsonl")
    assert file.lines() == []
    (tmp_path / "lines.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    assert len(file.lines()) == 2
    assert file.lines() is file.lines()
    (tmp_path / "lines.jsonl").write_text('{"a": 3}\n')
    assert file.lines() == [{"a": 3}]


def test_a_replaced_file_leaves_nothing_beside_it(tmp_path: Path) -> None:
    replace_text(tmp_path / "x.json", "1")
    replace_text(tmp_path / "x.json", "2")
    assert (tmp_path / "x.json").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
