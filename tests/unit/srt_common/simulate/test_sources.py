"""Every kind of source is read as it was written, and refused in one sentence when damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srt_common.errors import ConfigurationError
from srt_common.simulate.sources import read_trace
from srt_trainer.journal import Journal
from srt_trainer.rollouts import Generation, StepRecord, finished_rollout

ARRAYS: dict[str, Any] = {
    "prompt_tok": np.asarray([5, 6, 7], np.int32),
    "prompt_off": np.asarray([0, 2, 3]),
    "traj_prompt": np.asarray([1, 0], np.int32),
    "traj_policy": np.asarray([3, 4], np.int32),
    "seg_tok": np.asarray([10, 11, 12, 13, 14, 15], np.int32),
    "seg_off": np.asarray([0, 2, 3, 5, 6]),
    "seg_traj": np.asarray([0, 0, 0, 1], np.int32),
    "seg_gen": np.asarray([1, 0, 1, 1], np.uint8),
}
ROWS: dict[str, Any] = {
    "row_off": np.asarray([0, 1, 3, 4, 5, 6]),
    "row_id": np.asarray([10, 11, 20, 13, 14, 15], np.int16),
    "row_p": np.asarray([1, 0.75, 0.25, 1, 1, 1], np.float16),
    "traj_exact": np.asarray([1, 0], np.uint8),
}


def npz(folder: Path, **changed: Any) -> Path:
    path = folder / "trace.npz"
    np.savez(path, **{name: it for name, it in (ARRAYS | changed).items() if it is not None})
    return path


def test_turns_and_observations_of_an_npz_are_told_apart(tmp_path: Path) -> None:
    trace = read_trace(npz(tmp_path))
    first, second = trace.rollouts
    assert [prompt.tolist() for prompt in trace.prompts] == [[5, 6], [7]]
    assert (first.prompt_index, first.policy_version) == (1, 3)
    assert first.tokens.tolist() == [10, 11, 12, 13, 14]
    assert first.turns == ((0, 2, 0), (3, 5, 2))
    assert (second.tokens.tolist(), second.turns) == ([15], ((0, 1, 4),))
    assert (trace.num_generated, trace.rows, trace.exact_versions) == (5, None, [])


def test_distributions_of_an_npz_belong_to_generated_tokens(tmp_path: Path) -> None:
    trace = read_trace(npz(tmp_path, **ROWS))
    assert trace.rows is not None
    assert trace.exact_versions == [3]
    numbers, ids = np.asarray([1, 4]), np.asarray([[11, 20, 9], [15, 11, 0]], np.int32)
    assert trace.rows.probabilities(numbers, ids).tolist() == [[0.75, 0.25, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"seg_gen": None}, "without the arrays seg_gen"),
        ({"prompt_off": np.asarray([0, 2, 9])}, "prompt_off must ascend"),
        ({"seg_off": np.asarray([0, 3, 2, 5, 6])}, "seg_off must ascend"),
        ({"traj_prompt": np.asarray([2, 0], np.int32)}, "traj_prompt must hold 0 to 1"),
        ({"seg_traj": np.asarray([0, 1, 0, 1], np.int32)}, "seg_traj must ascend"),
        ({"seg_tok": np.asarray([-1, 0, 0, 0, 0, 0])}, "seg_tok holds -1 to 0; allowed are 0 to"),
        ({**ROWS, "row_off": np.asarray([0, 9])}, "row_off must ascend"),
        ({**ROWS, "row_off": np.asarray([0, 6])}, "row_off must have 6 entries"),
        ({"traj_policy": np.asarray([3], np.int32)}, "traj_policy must have 2 entries"),
    ],
)
def test_a_damaged_npz_is_refused(tmp_path: Path, changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as refused:
        read_trace(npz(tmp_path, **changed))
    assert len(refused.value.faults) == 1


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="without pickle"):
        read_trace(npz(tmp_path, prompt_tok=np.asarray([{}], object)))


def test_the_journal_of_the_trainer_is_read_step_by_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for step in (4, 3):
        rollouts = [
            finished_rollout(
                Generation(token_ids=[10 * step, n], log_probs=[0.0, 0.0], finish_reason="stop"),
                rollout_id=f"{step}-{n}",
                prompt_index=77,
                prompt_token_ids=[8, 9],
            )
            for n in range(2)
        ]
        journal.write(
            StepRecord(
                step=step,
                rollouts=rollouts,
                rewards=[1.0, None],
                rollout_seconds=1.0,
                reward_seconds=0.0,
            )
        )
    trace = read_trace(tmp_path)
    assert [(it.policy_version, it.tokens.tolist()) for it in trace.rollouts] == [
        (3, [30, 0]),
        (3, [30, 1]),
        (4, [40, 0]),
        (4, [40, 1]),
    ]
    assert [prompt.tolist() for prompt in trace.prompts] == [[8, 9]]
    assert trace.batches_end_with_version


def test_jsonl_is_read_in_the_order_of_policy_versions(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    lines: list[dict[str, Any]] = [
        {"prompt_token_ids": [1], "response_token_ids": [5, 6], "policy_version": 2, "reward": 1},
        {
            "prompt_token_ids": [1],
            "segments": [
                {"token_ids": [7]},
                {"token_ids": [8, 8], "generated": False},
                {"token_ids": [9]},
            ],
        },
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    trace = read_trace(path)
    assert [it.policy_version for it in trace.rollouts] == [0, 2]
    assert trace.rollouts[0].tokens.tolist() == [7, 8, 8, 9]
    assert [turn[:2] for turn in trace.rollouts[0].turns] == [(0, 1), (3, 4)]
    assert len(trace.prompts) == 1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"prompt_token_ids": [1]}', "line 1: allowed is one of response_token_ids and segments"),
        ('{"response_token_ids": [1]}', "line 1: .*prompt_token_ids"),
        ('{"prompt_token_ids": ["a"], "response_token_ids": [1]}', "line 1: Expected `int`"),
        ('{"prompt_token_ids": [], "response_token_ids": [1]}', "prompts of at least one token"),
        ('{"prompt_token_ids": [1], "response_token_ids": [-4]}', "token ids from 0 to 2\\^24"),
        ("{", "wrong in line 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    path = tmp_path / "rollouts.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ConfigurationError, match=sentence):
        read_trace(path)


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for source in (tmp_path, tmp_path / "notes.txt", tmp_path / "none.npz"):
        with pytest.raises(ConfigurationError, match="allowed is"):
            read_trace(source)
