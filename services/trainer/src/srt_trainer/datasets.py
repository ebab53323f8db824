"""Prompts: from where they are kept to the token ids that engines are sent.

* ``reasoning-gym://`` tasks are made here from their seed; files and the hub are read by
  `datasets`.
* Nothing is cut: a prompt that is too long stops the job with a sentence that names its row.
* Data only: no code of a data set is ever run.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import TypeAdapter, ValidationError

from srt_common.errors import ConfigurationError
from srt_trainer.settings import DatasetSettings

Row = Mapping[str, Any]
Messages = list[dict[str, str]]
Scorer = Callable[[str | None, dict[str, Any]], float]

FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used."""

    chat_template: str | None
    eos_token_id: int | None

    def encode(self, text: str) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...

    def apply_chat_template(
        self, conversation: Messages, *, add_generation_prompt: bool, return_dict: bool
    ) -> list[int]: ...

    def save_pretrained(self, folder: Path) -> object: ...


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as they were loaded."""

    uri: str
    rows: Sequence[Row]
    prompt_field: str
    answer_field: str
    scorer: Scorer | None = None
    """The task's own judgement of an answer; None: it brings none."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row, ready to be sampled."""

    index: int
    content: str | Messages
    """As the data set has it; reward functions get it as ``prompts``."""
    token_ids: tuple[int, ...]
    columns: Row
    """What reward functions get beside prompt and completion; always holds ``answer``, if known."""


def load_table(
    settings: DatasetSettings, *, cache_dir: Path, file_roots: Sequence[Path] | None = None
) -> Table:
    """Load the rows of a data set.

    Args:
        settings: where they are.
        cache_dir: where `datasets` may keep its converted copies.
        file_roots: folders below which a file must lie, links followed; None: anywhere.

    Raises:
        ConfigurationError: the URI, or what it points at, cannot be used.
    """
    parts = urlsplit(settings.uri)
    if parts.scheme == "reasoning-gym":
        return _load_reasoning_gym(settings, parts)
    if parts.scheme == "file":
        rows = _load_file(settings.uri, parts, cache_dir, file_roots)
    elif parts.scheme == "hf":
        rows = _load_hub(settings.uri, parts, cache_dir)
    else:
        raise _refusal(settings.uri, "allowed are reasoning-gym://, file:// and hf://")
    table = Table(settings.uri, rows, settings.prompt_field or "prompt", settings.answer_field)
    for name in (table.prompt_field, table.answer_field):
        if len(rows) == 0 or name not in rows[0]:
            raise _refusal(settings.uri, f"it has no row with a column {name!r}")
    return table


def build_prompts(table: Table, tokenizer: Tokenizer, *, max_prompt_tokens: int) -> list[Prompt]:
    """Tokenize every row: chat messages through the chat template, text as it is.

    Raises:
        ConfigurationError: a row that cannot be a prompt, named by its number from 0.
    """
    return [
        _build_prompt(table, index, row, tokenizer, max_prompt_tokens)
        for index, row in enumerate(table.rows)
    ]


def _build_prompt(
    table: Table, index: int, row: Row, tokenizer: Tokenizer, max_prompt_tokens: int
) -> Prompt:
    content = row[table.prompt_field]
    place = f"row {index} of {table.uri}"
    if isinstance(content, str):
        token_ids = tokenizer.encode(content)
    elif not isinstance(content, list):
        kind = type(content).__name__
        raise _fault(f"{place} has a {kind} as prompt; allowed are a text and a list of messages")
    elif tokenizer.chat_template is None:
        raise _fault(f"{place} holds chat messages; the tokenizer has no chat template for them")
    else:
        token_ids = tokenizer.apply_chat_template(
            content, add_generation_prompt=True, return_dict=False
        )
    if not 1 <= len(token_ids) <= max_prompt_tokens:
        raise _fault(
            f"{place} has {len(token_ids)} prompt tokens; allowed are 1 to {max_prompt_tokens} "
            "(sampling.max_prompt_tokens)"
        )
    columns = {name: value for name, value in row.items() if name != table.prompt_field}
    columns["answer"] = row[table.answer_field]
    return Prompt(index, content, tuple(token_ids), columns)


def _resolved(uri: str, path: Path, file_roots: Sequence[Path] | None) -> Path:
    """The file itself, without links on the way, so that what was checked is what is opened."""
    try:
        file = path.resolve()
    except (OSError, RuntimeError) as error:  # a link that leads back to itself
        raise _refusal(uri, str(error)) from error
    if file_roots is None or any(file.is_relative_to(root.resolve()) for root in file_roots):
        return file
    roots = " or ".join(map(str, file_roots))
    raise _refusal(uri, f"allowed are files below {roots}, also where a link leads")


def _load_file(
    uri: str, parts: SplitResult, cache_dir: Path, file_roots: Sequence[Path] | None
) -> Sequence[Row]:
    import datasets

    path = Path(unquote(parts.netloc + parts.path)).expanduser()
    file_format = FILE_FORMATS.get(path.suffix)
    if file_format is None:
        raise _refusal(uri, f"allowed are files ending in {', '.join(FILE_FORMATS)}")
    path = _resolved(uri, path, file_roots)
    if not path.is_file():
        raise _refusal(uri, "there is no such file")
    try:
        return typing.cast(
            Sequence[Row],
            datasets.load_dataset(
                file_format, data_files=str(path), split="train", cache_dir=str(cache_dir)
            ),
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise _refusal(uri, f"its content is not {file_format}") from error


def _load_hub(uri: str, parts: SplitResult, cache_dir: Path) -> Sequence[Row]:
    import datasets

    query = _query(uri, parts, allowed=("split", "name", "revision"))
    try:
        return typing.cast(
            Sequence[Row],
            datasets.load_dataset(
                parts.netloc + parts.path,
                name=query.get("name"),
                split=query.get("split", "train"),
                revision=query.get("revision"),
                cache_dir=str(cache_dir),
            ),
        )
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise _refusal(uri, str(error)) from error


def _load_reasoning_gym(settings: DatasetSettings, parts: SplitResult) -> Table:
    import reasoning_gym

    uri, task = settings.uri, parts.netloc
    if task not in reasoning_gym.factory.DATASETS:
        raise _refusal(uri, f"reasoning-gym has no task {task!r}")
    if settings.prompt_field not in (None, "question"):
        raise _fault(
            f"dataset.prompt_field is {settings.prompt_field!r}; reasoning-gym allows 'question'"
        )
    config = reasoning_gym.factory.DATASETS[task][1]
    query = _query(uri, parts, allowed=[field.name for field in dataclasses.fields(config)])
    if "seed" not in query:
        raise _refusal(uri, "it needs seed=<integer>, so that a resumed job sees the same prompts")
    values = _typed(uri, query, typing.get_type_hints(config))
    try:
        task_data = reasoning_gym.create_dataset(task, **values)
    except (AssertionError, ValueError) as error:
        raise _refusal(uri, str(error)) from error
    rows = [task_data[index] for index in range(len(task_data))]
    return Table(uri, rows, "question", "answer", task_data.score_answer)


def _query(uri: str, parts: SplitResult, *, allowed: Sequence[str]) -> dict[str, str]:
    """The query's settings; each at most once and each allowed."""
    try:
        pairs = parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise _refusal(uri, str(error)) from error
    query = dict(pairs)
    if len(query) < len(pairs):
        raise _refusal(uri, "each setting is allowed once")
    for name, value in query.items():
        if name not in allowed:
            raise _refusal(uri, f"{name}={value} is unknown; allowed are {', '.join(allowed)}")
    return query


def _typed(uri: str, query: Mapping[str, str], hints: Mapping[str, Any]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in query.items():
        try:
            values[name] = TypeAdapter(hints[name]).validate_strings(value)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise _refusal(uri, f"{name}={value}: {reason}") from error
    return values


def _refusal(uri: str, reason: str) -> ConfigurationError:
    return _fault(f"dataset {uri} cannot be used: {reason}")


def _fault(sentence: str) -> ConfigurationError:
    return ConfigurationError(faults=[sentence])
