"""Data sets: every kind is read, and what cannot be used is refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from srt_common.errors import ConfigurationError
from srt_trainer.datasets import Table, build_prompts, load_table
from srt_trainer.settings import DatasetSettings
from support.tiny_model import make_tiny_tokenizer

ROWS = [
    {"prompt": "1 + 1?", "answer": "2", "level": 1},
    {"prompt": "2 + 3?", "answer": "5", "level": 2},
]
TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}.{% endfor %}assistant:"


def load(tmp_path: Path, uri: str, **fields: Any) -> Table:
    return load_table(DatasetSettings(uri=uri, **fields), cache_dir=tmp_path / "cache")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"file://{path}"


def refusal(tmp_path: Path, uri: str, **fields: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, uri, **fields)
    (fault,) = caught.value.faults
    return fault


def test_a_reasoning_gym_task_is_made_from_its_seed(tmp_path: Path) -> None:
    uri = "reasoning-gym://chain_sum?seed=3&size=4&max_digits=2&allow_negation=true"
    table, again = load(tmp_path, uri), load(tmp_path, uri)
    assert len(table.rows) == 4
    assert list(table.rows) == list(again.rows)
    assert table.rows[0] != load(tmp_path, uri.replace("seed=3", "seed=9")).rows[0]
    assert table.scorer is not None
    assert table.scorer(table.rows[0]["answer"], dict(table.rows[0])) == 1.0


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("chain_sums?seed=1", "reasoning-gym has no task 'chain_sums'"),
        ("chain_sum?size=4", "it needs seed=<integer>"),
        ("chain_sum?seed=1&max_digit=2", "max_digit=2 is unknown; allowed are min_terms, "),
        ("chain_sum?seed=1&size=many", "size=many: Input should be a valid integer"),
        ("chain_sum?seed=1&size=0", "size must be positive"),
        ("chain_sum?seed=1&seed=2", "each setting is allowed once"),
        ("chain_sum?seed", "bad query field: 'seed'"),
    ],
)
def test_a_wrong_reasoning_gym_query_is_refused(tmp_path: Path, uri: str, reason: str) -> None:
    fault = refusal(tmp_path, f"reasoning-gym://{uri}")
    assert fault.startswith(f"dataset reasoning-gym://{uri} cannot be used: ")
    assert reason in fault


def test_reasoning_gym_has_its_own_prompt_column(tmp_path: Path) -> None:
    fault = refusal(tmp_path, "reasoning-gym://chain_sum?seed=1", prompt_field="prompt")
    assert fault == "dataset.prompt_field is 'prompt'; reasoning-gym allows 'question'"


def test_jsonl_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    uri = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    tables = [load(tmp_path, uri), load(tmp_path, f"file://{tmp_path}/rows.parquet")]
    assert [list(table.rows) for table in tables] == [ROWS, ROWS]
    assert tables[0].scorer is None


def test_a_relative_path_begins_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "rows.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    for uri in ("file://data/rows.jsonl", "file://./data/rows.jsonl"):
        assert list(load(tmp_path, uri).rows) == ROWS


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file:///absent.jsonl", "there is no such file"),
        ("file:///rows.csv", "allowed are files ending in .jsonl, .json, .parquet"),
        ("s3://bucket/rows", "allowed are reasoning-gym://, file:// and hf://"),
        ("hf://owner/name?config=a", "config=a is unknown; allowed are split, name, revision"),
    ],
)
def test_a_place_that_cannot_be_read_is_refused(tmp_path: Path, uri: str, reason: str) -> None:
    assert reason in refusal(tmp_path, uri)


def test_a_file_lies_below_the_roots_wherever_links_lead(tmp_path: Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "private.jsonl"
    (root / "deep").mkdir(parents=True)
    write_jsonl(outside, ROWS)
    inside = write_jsonl(root / "deep" / "rows.jsonl", ROWS)
    (root / "out.jsonl").symlink_to(outside)
    (root / "in.jsonl").symlink_to(root / "deep" / "rows.jsonl")
    (root / "loop.jsonl").symlink_to(root / "loop.jsonl")

    def rows(uri: str) -> list[Any]:
        cache = tmp_path / "cache"
        return list(load_table(DatasetSettings(uri=uri), cache_dir=cache, file_roots=[root]).rows)

    assert rows(inside) == rows(f"file://{root}/in.jsonl") == ROWS
    for name in ("out.jsonl", "../private.jsonl", "%2e%2e/private.jsonl", "loop.jsonl"):
        with pytest.raises(ConfigurationError, match="cannot be used"):
            rows(f"file://{root}/{name}")


def test_missing_columns_and_broken_files_are_refused(tmp_path: Path) -> None:
    uri = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert "no row with a column 'text'" in refusal(tmp_path, uri, prompt_field="text")
    assert "no row with a column 'solution'" in refusal(tmp_path, uri, answer_field="solution")
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{]")
    assert "its content is not json" in refusal(tmp_path, f"file://{broken}")


def test_a_hub_that_cannot_be_reached_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot be used: " in refusal(tmp_path, "hf://nobody/nothing?split=test")


def test_text_prompts_are_tokenized_as_they_are(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    table = load(tmp_path, write_jsonl(tmp_path / "rows.jsonl", ROWS), answer_field="level")
    first, second = build_prompts(table, tokenizer, max_prompt_tokens=6)
    assert tokenizer.decode(first.token_ids) == "1 + 1?"
    assert (first.index, second.index) == (0, 1)
    assert second.content == "2 + 3?"
    assert second.columns == {"answer": 2, "level": 2}


def test_chat_messages_go_through_the_template(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "1 + 1?"}]
    table = Table("file:///chat.jsonl", [{"prompt": messages, "answer": "2"}], "prompt", "answer")
    tokenizer = make_tiny_tokenizer()
    with pytest.raises(ConfigurationError, match=r"row 0 .*the tokenizer has no chat template"):
        build_prompts(table, tokenizer, max_prompt_tokens=64)
    tokenizer.chat_template = TEMPLATE
    (prompt,) = build_prompts(table, tokenizer, max_prompt_tokens=64)
    assert tokenizer.decode(prompt.token_ids) == "user:1 + 1?.assistant:"
    assert prompt.content == messages


@pytest.mark.parametrize("text", ["1 + 1 + 1?", ""])
def test_a_prompt_of_a_wrong_length_is_named_by_its_row(text: str) -> None:
    rows = [{"prompt": "1", "answer": ""}, {"prompt": text, "answer": ""}]
    table = Table("file:///rows.jsonl", rows, "prompt", "answer")
    with pytest.raises(ConfigurationError) as caught:
        build_prompts(table, make_tiny_tokenizer(), max_prompt_tokens=4)
    assert caught.value.faults == (
        f"row 1 of file:///rows.jsonl has {len(text)} prompt tokens; allowed are 1 to 4 "
        "(sampling.max_prompt_tokens)",
    )


def test_a_prompt_that_is_neither_text_nor_messages_is_refused() -> None:
    table = Table("file:///rows.jsonl", [{"prompt": 7, "answer": ""}], "prompt", "answer")
    with pytest.raises(ConfigurationError, match=r"row 0 of .* has a int as prompt"):
        build_prompts(table, make_tiny_tokenizer(), max_prompt_tokens=4)
