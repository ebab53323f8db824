"""Reads what a user has recorded: npz files, run folders, JSONL. The only I/O of a replay.

* npz: the format of the project's rollout traces; with ``row_off``, ``row_id`` and ``row_p`` the
  policy's distributions (exact replay). Loaded without pickle.
* run folder: the trainer's journal below it, which holds the steps since the last checkpoint.
* JSONL: one rollout a line: ``prompt_token_ids``, then ``response_token_ids`` or ``segments`` (a
  list of ``{"token_ids": [...], "generated": true|false}``), and ``policy_version`` (default 0).

What is wrong is a `ConfigurationError` of one sentence.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from srt_common.errors import ConfigurationError
from srt_common.simulate.trace import (
    IntArray,
    PolicyRows,
    Rollout,
    Trace,
    Turn,
    find_stop_tokens,
)

TOKEN_LIMIT = 1 << 24
_ARRAYS = (
    *("prompt_tok", "prompt_off", "traj_prompt", "traj_policy"),
    *("seg_tok", "seg_off", "seg_traj", "seg_gen"),
)
_ROW_ARRAYS = ("row_off", "row_id", "row_p")

Arrays = Mapping[str, NDArray[Any]]


class JournalRollout(msgspec.Struct, frozen=True):
    """What a replay needs of a rollout in a trainer's journal; other fields are skipped."""

    prompt_index: int
    prompt_token_ids: bytes
    token_ids: bytes


class JournalStep(msgspec.Struct, frozen=True, tag="srt-step/1"):
    """One step in a trainer's journal."""

    step: int
    rollouts: list[JournalRollout]


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a rollout in JSONL."""

    token_ids: list[int]
    generated: bool = True


class Line(msgspec.Struct, frozen=True):
    """One rollout in JSONL; other fields are skipped."""

    prompt_token_ids: list[int]
    response_token_ids: list[int] | None = None
    segments: list[Segment] | None = None
    policy_version: int = 0


def read_trace(source: Path) -> Trace:
    """Read a file or folder.

    Raises:
        ConfigurationError: SOURCE is none of the three, or is damaged.
    """
    if source.is_dir():
        return _read_run(source)
    if not source.is_file():
        _refuse(source, "missing; allowed is an .npz file, a .jsonl file or a run folder")
    if source.suffix == ".npz":
        return _read_npz(source)
    if source.suffix in (".jsonl", ".json"):
        return _read_jsonl(source)
    _refuse(source, "of an unknown kind; allowed is an .npz file, a .jsonl file or a run folder")


def _refuse(source: Path, what: str) -> NoReturn:
    raise ConfigurationError(faults=[f"SOURCE {str(source)!r} is {what}"])


# -- npz -------------------------------------------------------------------------------------------
def _read_npz(source: Path) -> Trace:
    try:
        with np.load(source, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        _refuse(source, f"not readable as .npz without pickle ({error})")
    if missing := [name for name in _ARRAYS if name not in arrays]:
        _refuse(source, f"without the arrays {', '.join(missing)}; allowed is a rollout trace")
    if fault := _fault_of(arrays):
        _refuse(source, fault)
    rollouts = _rollouts_of(arrays)
    return Trace(
        name=source.stem,
        prompts=np.split(_int32(arrays["prompt_tok"]), arrays["prompt_off"][1:-1]),
        rollouts=rollouts,
        rows=_rows_of(arrays),
        stop_token_ids=find_stop_tokens(rollouts),
    )


def _fault_of(arrays: Arrays) -> str:
    """Why arrays do not fit together; "" when they do."""
    for tokens, offsets in (("prompt_tok", "prompt_off"), ("seg_tok", "seg_off")):
        if not _spans(arrays[offsets], len(arrays[tokens])):
            return f"damaged: {offsets} must ascend from 0 to the length of {tokens}"
        ids = arrays[tokens]
        if ids.size and not 0 <= ids.min() <= ids.max() < TOKEN_LIMIT:
            return f"damaged: {tokens} holds {ids.min()} to {ids.max()}; allowed are 0 to 2^24 - 1"
    num_prompts, num_rollouts = len(arrays["prompt_off"]) - 1, len(arrays["traj_prompt"])
    for name, limit in (("traj_prompt", num_prompts), ("seg_traj", num_rollouts)):
        if arrays[name].size and not 0 <= arrays[name].min() <= arrays[name].max() < limit:
            return f"damaged: {name} must hold 0 to {limit - 1}"
    if np.any(np.diff(arrays["seg_traj"]) < 0):
        return "damaged: seg_traj must ascend"
    return _length_fault_of(arrays)


def _length_fault_of(arrays: Arrays) -> str:
    num_rollouts, num_segments = len(arrays["traj_prompt"]), len(arrays["seg_traj"])
    lengths = {
        "traj_policy": num_rollouts,
        "seg_off": num_segments + 1,
        "seg_gen": num_segments,
    }
    if all(name in arrays for name in _ROW_ARRAYS):
        if not _spans(arrays["row_off"], len(arrays["row_id"])):
            return "damaged: row_off must ascend from 0 to the length of row_id"
        num_generated = int(np.diff(arrays["seg_off"])[arrays["seg_gen"] == 1].sum())
        lengths |= {"row_off": num_generated + 1, "row_p": len(arrays["row_id"])}
    if "traj_exact" in arrays:
        lengths["traj_exact"] = num_rollouts
    for name, length in lengths.items():
        if len(arrays[name]) != length:
            return f"damaged: {name} must have {length} entries"
    return ""


def _spans(offsets: NDArray[Any], end: int) -> bool:
    return bool(
        offsets.size and offsets[0] == 0 and offsets[-1] == end and np.all(np.diff(offsets) >= 0)
    )


def _rollouts_of(arrays: Arrays) -> list[Rollout]:
    offsets, owners = arrays["seg_off"], arrays["seg_traj"]
    is_generated = arrays["seg_gen"].astype(bool)
    lengths = np.diff(offsets)
    first_rows = np.cumsum(lengths * is_generated) - lengths * is_generated
    tokens = _int32(arrays["seg_tok"])
    num_rollouts = len(arrays["traj_prompt"])
    exact = arrays.get("traj_exact", np.ones(num_rollouts, np.uint8))
    bounds = np.searchsorted(owners, np.arange(num_rollouts + 1))
    rollouts = []
    for number in range(num_rollouts):
        segments = range(bounds[number], bounds[number + 1])
        base = int(offsets[bounds[number]])
        turns = tuple(
            Turn(int(offsets[it]) - base, int(offsets[it + 1]) - base, int(first_rows[it]))
            for it in segments
            if is_generated[it] and lengths[it]
        )
        if turns:
            rollouts.append(
                Rollout(
                    prompt_index=int(arrays["traj_prompt"][number]),
                    policy_version=int(arrays["traj_policy"][number]),
                    tokens=tokens[base : int(offsets[bounds[number + 1]])],
                    turns=turns,
                    is_exact=bool(exact[number]),
                )
            )
    return rollouts


def _rows_of(arrays: Arrays) -> PolicyRows | None:
    if not all(name in arrays for name in _ROW_ARRAYS):
        return None
    return PolicyRows(
        offsets=arrays["row_off"].astype(np.int64),
        token_ids=_int32(arrays["row_id"]),
        probs=arrays["row_p"].astype(np.float32),
    )


def _int32(array: NDArray[Any]) -> IntArray:
    return np.ascontiguousarray(array, dtype=np.int32)


# -- run folders -----------------------------------------------------------------------------------
def _read_run(folder: Path) -> Trace:
    paths = sorted(folder.glob("journal/step-*.msgpack"))
    if not paths:
        _refuse(folder, "a folder without journal/step-*.msgpack; allowed is a run's folder")
    decoder = msgspec.msgpack.Decoder(JournalStep)
    items = []
    for path in paths:
        try:
            record = decoder.decode(path.read_bytes())
        except (msgspec.DecodeError, OSError) as error:
            _refuse(path, f"not a step of a journal ({error})")
        for it in record.rollouts:
            prompt, tokens = (np.frombuffer(b, "<i4") for b in (it.prompt_token_ids, it.token_ids))
            items.append((prompt, [(tokens, True)], record.step))
    return _assembled(folder.name, items)


# -- JSONL -----------------------------------------------------------------------------------------
def _read_jsonl(source: Path) -> Trace:
    decoder = msgspec.json.Decoder(Line)
    items = []
    for number, text in enumerate(source.read_bytes().splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = decoder.decode(text)
        except msgspec.DecodeError as error:
            _refuse(source, f"wrong in line {number}: {error}")
        if (line.response_token_ids is None) == (line.segments is None):
            _refuse(
                source,
                f"wrong in line {number}: allowed is one of response_token_ids and segments",
            )
        segments = line.segments or [Segment(line.response_token_ids or [])]
        ids = [*line.prompt_token_ids, *(it for part in segments for it in part.token_ids)]
        if not line.prompt_token_ids or not all(0 <= it < TOKEN_LIMIT for it in ids):
            _refuse(
                source,
                f"wrong in line {number}: allowed are prompts of at least one token "
                "and token ids from 0 to 2^24 - 1",
            )
        parts = [(np.asarray(part.token_ids, np.int32), part.generated) for part in segments]
        items.append((np.asarray(line.prompt_token_ids, np.int32), parts, line.policy_version))
    return _assembled(source.stem, sorted(items, key=lambda it: it[2]))


Item = tuple[IntArray, Sequence[tuple[IntArray, bool]], int]
"""Prompt, (tokens, is generated) of each segment, policy version."""


def _assembled(name: str, items: Iterable[Item]) -> Trace:
    """A trace of rollouts that ran version by version; equal prompts are one prompt."""
    numbers: dict[bytes, int] = {}
    prompts: list[IntArray] = []
    rollouts: list[Rollout] = []
    num_rows = 0
    for prompt, segments, version in items:
        number = numbers.setdefault(prompt.tobytes(), len(prompts))
        if number == len(prompts):
            prompts.append(np.ascontiguousarray(prompt, dtype=np.int32))
        turns, at = [], 0
        for tokens, is_generated in segments:
            if is_generated and len(tokens):
                turns.append(Turn(at, at + len(tokens), num_rows))
                num_rows += len(tokens)
            at += len(tokens)
        if turns:
            text = np.concatenate([tokens for tokens, _ in segments]).astype(np.int32)
            rollouts.append(Rollout(number, version, text, tuple(turns)))
    return Trace(
        name,
        prompts,
        rollouts,
        None,
        batches_end_with_version=True,
        stop_token_ids=find_stop_tokens(rollouts),
    )
