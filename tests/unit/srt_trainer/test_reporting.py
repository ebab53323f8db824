"""``metrics.jsonl``: one line a step and an evaluation, also after crashes; sinks see each line
once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from srt_trainer.report_lines import Line
from srt_trainer.reporting import Reporter, open_sinks


class ListSink:
    """Stands in for TensorBoard."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.is_closed = False

    def write(self, line: Line) -> None:
        self.lines.append(line)

    def close(self) -> None:
        self.is_closed = True


def step(number: int, **numbers: Any) -> Line:
    return {"kind": "step", "step": number, **numbers}


def evaluation(number: int) -> Line:
    return {"kind": "eval", "step": number}


def lines_of(path: Path) -> list[tuple[str, int]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["kind"], line["step"]) for line in lines]


def test_a_line_is_written_once(tmp_path: Path) -> None:
    sink, path = ListSink(), tmp_path / "metrics.jsonl"
    reporter = Reporter(path, [sink])
    for line in (evaluation(0), step(0, loss=1.0), step(0, loss=2.0)):
        reporter.write(line)
    again = Reporter(path, [sink])
    again.write(step(0, loss=3.0))
    again.write(step(1))
    assert lines_of(path) == [("eval", 0), ("step", 0), ("step", 1)]
    assert sink.lines == [evaluation(0), step(0, loss=1.0), step(1)]
    assert again.has("eval", 0)
    assert not again.has("eval", 1)
    again.close()
    assert sink.is_closed


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_what_a_crash_cut_short_is_removed_and_written_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    reporter = Reporter(path)
    reporter.write(step(0))
    reporter.write(step(1))
    path.write_bytes(path.read_bytes()[:-cut])
    resumed = Reporter(path)
    resumed.keep_before(2)
    resumed.write(step(1))
    assert lines_of(path) == [("step", 0), ("step", 1)]


def test_steps_that_are_done_anew_are_forgotten_and_the_evaluation_before_them_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    reporter = Reporter(path)
    for line in (evaluation(0), step(0), step(1), evaluation(2), step(2), evaluation(3)):
        reporter.write(line)
    reporter.keep_before(2)
    assert lines_of(path) == [("eval", 0), ("step", 0), ("step", 1), ("eval", 2)]
    assert not reporter.has("step", 2)


def test_a_number_that_json_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Reporter(tmp_path / "metrics.jsonl").write(step(0, loss=float("nan")))


def test_tensorboard_gets_the_numbers_of_each_line(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reporter = Reporter(
        tmp_path / "metrics.jsonl", open_sinks(["tensorboard"], job="tiny", run_dir=tmp_path)
    )
    reporter.write(step(0, loss=0.5, kl=None))
    reporter.write(step(1, loss=0.25))
    reporter.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("step/loss")] == [
        (0, 0.5),
        (1, 0.25),
    ]
    assert "step/kl" not in events.Tags()["scalars"]


def test_wandb_takes_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (sink,) = open_sinks(["wandb"], job="tiny", run_dir=tmp_path)
    sink.write(step(0, loss=0.5, kl=None))
    sink.close()


def test_in_wandb_a_resumed_run_goes_on_and_another_run_of_the_job_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = []

    def init(**options: Any) -> MagicMock:
        ids.append(options["id"])
        return MagicMock()

    monkeypatch.setattr("wandb.init", init)
    for name in ("on", "on", "off"):
        (tmp_path / name).mkdir(exist_ok=True)
        open_sinks(["wandb"], job="tiny", run_dir=tmp_path / name)
    assert ids[0] == ids[1] != ids[2]


def test_no_sink_is_opened_unless_asked_for(tmp_path: Path) -> None:
    assert open_sinks([], job="tiny", run_dir=tmp_path) == []
