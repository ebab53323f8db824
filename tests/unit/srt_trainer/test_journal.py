"""Durable files and the journal: whole or absent, and read back exactly as written."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_trainer.durable_files import append_durably, durable_folder, write_durably
from srt_trainer.journal import Journal
from srt_trainer.rollouts import StepRecord
from support.trainer_jobs import rollout


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        rollouts=[rollout([1, 70_000], log_probs=[-0.1, -2.5], num_draft_tokens=3)],
        rewards=[None, 0.25],
        rollout_seconds=1.5,
        reward_seconds=0.5,
    )


def test_a_step_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.read(3) is None
    journal.write(record(3))
    assert Journal(tmp_path).read(3) == record(3)


@given(
    token_ids=st.lists(st.integers(0, 2**31 - 1), max_size=5),
    log_probs=st.lists(st.floats(-50, 0, width=32), max_size=5),
)
def test_tokens_and_log_probabilities_are_packed_without_loss(
    token_ids: list[int], log_probs: list[float]
) -> None:
    packed = rollout(token_ids, log_probs=log_probs or None, prompt=token_ids)
    assert packed.token_array().tolist() == token_ids
    assert packed.prompt_array().tolist() == token_ids
    assert packed.num_tokens == packed.num_prompt_tokens == len(token_ids)
    if log_probs:
        assert np.array_equal(packed.log_prob_array(), np.array(log_probs, dtype=np.float32))


def test_only_steps_before_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in (8, 9, 10, 11):
        journal.write(record(step))
    journal.prune(10)
    assert [step for step in range(12) if journal.read(step)] == [10, 11]


def test_a_record_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step-000000.msgpack").write_bytes(msgspec.msgpack.encode({"type": "srt-step/2"}))
    with pytest.raises(msgspec.ValidationError):
        Journal(tmp_path).read(0)


def test_a_crash_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_durably(path, b"new and longer")
    assert path.read_bytes() == b"old"


def test_appending_keeps_what_was_there(tmp_path: Path) -> None:
    append_durably(tmp_path / "file", b"a\n")
    append_durably(tmp_path / "file", b"b\n")
    assert (tmp_path / "file").read_bytes() == b"a\nb\n"


def test_a_folder_appears_only_when_it_is_filled(tmp_path: Path) -> None:
    place = tmp_path / "folder"
    with pytest.raises(RuntimeError), durable_folder(place) as part:
        (part / "half").write_text("x")
        raise RuntimeError
    assert not place.exists()
    for content in ("first", "second"):
        with durable_folder(place) as part:
            assert list(part.iterdir()) == []
            (part / "file").write_text(content)
    assert [path.name for path in place.iterdir()] == ["file"]
    assert (place / "file").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
