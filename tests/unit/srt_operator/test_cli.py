"""The `srt` command as a user meets it: help with examples, refusals in sentences, a dry run that
touches nothing, and looking at what a run left.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from srt_operator import cli, doctor
from srt_operator.cli.app import COMMANDS
from srt_operator.constants import ConditionType, Phase, Reason
from srt_operator.layout import RunLayout
from srt_operator.run_lines import append_line
from srt_operator.status import Condition, ProcessReport, Progress, SRTJobStatus
from support.jobs import JOB


@dataclass(frozen=True)
class Answer:
    """What a command came to."""

    exit_code: int
    out: str
    err: str


Srt = Callable[..., Answer]


@pytest.fixture
def srt(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Srt:
    """Calls `srt` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["srt", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            sys.exit(0)
        captured = capfd.readouterr()
        code = ended.value.code
        return Answer(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


@pytest.fixture
def job(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("file:///models/tiny", f"file://{model}"))
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    layout = RunLayout(tmp_path / "runs" / "sums")
    layout.logs.mkdir(parents=True)
    layout.job.write_text(JOB)
    layout.log_of("trainer").write_text("first line\n")
    condition = Condition(
        type=ConditionType.COMPLETE,
        status="True",
        reason=Reason.STEPS_COMPLETED,
        lastTransitionTime="2026-11-24T18:00:00Z",
    )
    status = SRTJobStatus(
        phase=Phase.COMPLETE,
        conditions=(condition,),
        processes=(ProcessReport(name="trainer", state="Exited", exitCode=0),),
        progress=Progress(step=3, steps=3),
    )
    layout.status.write_text(status.model_dump_json(by_alias=True))
    return layout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(srt: Srt, command: str) -> None:
    answer = srt(command, "--help")
    assert answer.exit_code == 0
    assert COMMANDS[command][1][0] in answer.out


def test_without_a_command_help_is_shown(srt: Srt) -> None:
    answer = srt()
    assert "run" in answer.out + answer.err
    assert "Exit status" in answer.out + answer.err


def test_a_wrong_job_is_refused_with_every_fault(srt: Srt, job: Path) -> None:
    answer = srt("run", job, "--set", "spec.algorithm.steps=0", "--set", "spec.x=1")
    assert answer.exit_code == 2
    assert len(answer.err.splitlines()) == 2
    assert "spec.algorithm.steps is 0" in answer.err


def test_a_job_file_that_is_not_there_is_refused(srt: Srt) -> None:
    answer = srt("run", "nothing.yaml")
    assert answer.exit_code == 2
    assert "JOB is 'nothing.yaml'" in answer.err


@pytest.mark.parametrize("options", [("--resume", "--fresh"), ("--no-srt", "--compare")])
def test_options_that_exclude_each_other_are_refused(
    srt: Srt, job: Path, options: tuple[str, str]
) -> None:
    answer = srt("run", job, *options)
    assert answer.exit_code == 2
    assert "allowed is one of them" in answer.err


def test_a_folder_that_holds_a_run_is_refused(srt: Srt, job: Path, run: RunLayout) -> None:
    answer = srt("run", job)
    assert answer.exit_code == 2
    assert f"{run.root} holds a run" in answer.err
    assert run.log_of("trainer").exists()


def test_a_dry_run_shows_the_processes_and_touches_nothing(srt: Srt, job: Path) -> None:
    answer = srt("run", job, "--dry-run", "--set", "spec.algorithm.steps=7")
    assert answer.exit_code == 0
    assert "steps: 7" in answer.out
    for name in ("server", "tree-cache-0", "rollout-0", "runahead-1", "trainer"):
        assert f"# {name}: " in answer.out
    assert not Path("runs").exists()


def test_a_dry_run_without_srt_has_stock_engines(srt: Srt, job: Path) -> None:
    answer = srt("run", job, "--dry-run", "--no-srt")
    assert "SRT_ROLLOUT_DRAFTER_ENABLED=false" in answer.out
    assert "# tree-cache-0: " not in answer.out


def test_a_model_that_is_not_there_is_refused(srt: Srt, job: Path) -> None:
    answer = srt("run", job, "--dry-run", "--set", "spec.model.uri=file:///nowhere")
    assert answer.exit_code == 2
    assert "spec.model.uri is 'file:///nowhere'" in answer.err


def test_a_finished_run_is_not_run_again(srt: Srt, job: Path, run: RunLayout) -> None:
    run.job.write_text(job.read_text())
    append_line(run.metrics, {"kind": "eval", "step": 0, "eval_accuracy": 0.5, "eval_samples": 8})
    answer = srt("run", job, "--resume")
    assert answer.exit_code == 0
    assert "accuracy before" in answer.out
    assert run.report.exists()


def test_get_shows_phase_processes_and_conditions(srt: Srt, run: RunLayout) -> None:
    answer = srt("get", run.root)
    assert answer.exit_code == 0
    for words in ("Complete, step 3 of 3", "trainer", "Exited", "StepsCompleted"):
        assert words in answer.out


def test_logs_lists_processes_and_prints_one(srt: Srt, run: RunLayout) -> None:
    assert srt("logs", run.root).out == "trainer\n"
    assert srt("logs", run.root, "trainer").out == "first line\n"
    answer = srt("logs", run.root, "trainr")
    assert answer.exit_code == 2
    assert "PROCESS is 'trainr': allowed are trainer" in answer.err


def test_a_report_of_a_run_without_metrics_is_refused(srt: Srt, run: RunLayout) -> None:
    answer = srt("report", run.root)
    assert answer.exit_code == 2
    assert "no metrics yet" in answer.err
    assert srt("get", run.logs).exit_code == 2


def test_simulate_passes_its_arguments_on(srt: Srt, tmp_path: Path) -> None:
    answer = srt("simulate", "none.npz", "--drafter", "none")
    assert answer.exit_code == 2
    assert answer.err.startswith("SOURCE 'none.npz' is missing; allowed is an .npz file")
    line = '{"prompt_token_ids": [1], "response_token_ids": [2, 3, 4]}'
    (tmp_path / "rollouts.jsonl").write_text(line)
    answer = srt("simulate", "rollouts.jsonl", "--drafter", "none", "--json")
    assert answer.exit_code == 0
    assert '"tokens_per_step": 1.0' in answer.out


def test_doctor_says_ok_or_what_to_do(srt: Srt, monkeypatch: pytest.MonkeyPatch) -> None:
    good = doctor.Check("Python", True, "3.11")
    bad = doctor.Check("vLLM", False, "not installed; install it")
    note = doctor.Check("accelerator", False, "none", is_required=False)
    monkeypatch.setattr(doctor, "examine", lambda: [good, note])
    assert srt("doctor").exit_code == 0
    monkeypatch.setattr(doctor, "examine", lambda: [good, bad])
    answer = srt("doctor")
    assert answer.exit_code == 1
    assert answer.out.splitlines() == ["ok   Python: 3.11", "FIX  vLLM: not installed; install it"]


def test_every_check_of_this_machine_has_something_to_say() -> None:
    checks = doctor.examine()
    assert len({check.what for check in checks}) == len(checks)
    assert all(check.text for check in checks)
