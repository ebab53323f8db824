"""What is shown while a run goes on: plain lines for each change, a table on a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from srt_operator.constants import Phase
from srt_operator.display import display
from srt_operator.run_lines import LineFile, append_line
from srt_operator.status import ProcessReport, Progress, SRTJobStatus

STEP: dict[str, Any] = {
    "kind": "step",
    "step": 0,
    "reward_mean": 0.5,
    "rollout_seconds": 2.0,
    "train_seconds": 1.0,
    "step_seconds": None,
    "num_rollouts": 2,
    "num_generated_tokens": 22,
    "num_request_steps": 10,
    "num_draft_tokens": 0,
    "num_accepted_tokens": 0,
}
EVAL = {"kind": "eval", "step": 0, "eval_accuracy": 0.25, "eval_samples": 64}


def status(state: str, **fields: Any) -> SRTJobStatus:
    report = ProcessReport(name="trainer", state=state, **fields)
    return SRTJobStatus(
        phase=Phase.RUNNING, processes=(report,), progress=Progress(step=1, steps=3)
    )


def shown(*, is_terminal: bool, folder: Path) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=is_terminal, width=100)
    metrics = folder / "metrics.jsonl"
    with display(console, "sums", LineFile(metrics)) as show:
        show.show(status("Absent"))
        show.show(status("Starting"))
        show.show(status("Starting"))
        append_line(metrics, EVAL)
        append_line(metrics, STEP)
        show.show(status("Ready", restarts=1))
        show.show(status("Exited", restarts=1, exitCode=0))
    return text.getvalue()


def test_plain_lines_say_each_change_once(tmp_path: Path) -> None:
    assert shown(is_terminal=False, folder=tmp_path).splitlines() == [
        "[sums] trainer: Starting",
        "[sums] trainer: Ready, restarts 1",
        "[sums] accuracy 25.0% of 64 samples after 0 steps",
        "[sums] step 1/3, reward 0.50, rollout 2.0 s, train 1.0 s, tokens per step 2.00",
        "[sums] trainer: Exited, status 0, restarts 1",
    ]


def test_a_terminal_gets_a_table_with_progress(tmp_path: Path) -> None:
    text = shown(is_terminal=True, folder=tmp_path)
    for words in ("1/3", "trainer", "restarts 1", "tokens/step", "2.00", "25.0%"):
        assert words in text
