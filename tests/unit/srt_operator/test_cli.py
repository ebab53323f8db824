"""The `srt` command as a user meets it: help with examples, refusals in sentences, a dry run that
touches nothing, and looking at what a run left.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import yaml

from srt_common.messages.rollouts import EngineLoad
from srt_operator import cli
from srt_operator.backends.site import locked
from srt_operator.cli.app import COMMANDS
from srt_operator.constants import ConditionType, Phase, Reason
from srt_operator.doctor import machine
from srt_operator.doctor.base import Check, Level
from srt_operator.engine_now import EngineNow
from srt_operator.layout import RunLayout
from srt_operator.run_lines import append_line
from srt_operator.status import Condition, ProcessReport, Progress, SRTJobStatus
from srt_operator.wishes import Wish, Wishes
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
        progress=Progress(step=3, steps=3, display="3/3"),
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
    good = Check("Python", Level.OK, "3.11")
    bad = Check("vLLM", Level.FAIL, "not installed; install it")
    note = Check("accelerator", Level.WARN, "none")
    monkeypatch.setattr(machine, "examine", lambda: [good, note])
    assert srt("doctor").exit_code == 0
    monkeypatch.setattr(machine, "examine", lambda: [good, bad])
    answer = srt("doctor")
    assert answer.exit_code == 1
    assert answer.out.splitlines() == ["OK   Python: 3.11", "FAIL vLLM: not installed; install it"]
    assert json.loads(srt("doctor", "-o", "json").out)[1]["level"] == "FAIL"
    assert "allowed are table, json" in srt("doctor", "-o", "yaml").err


def test_every_check_of_this_machine_has_something_to_say() -> None:
    checks = machine.examine()
    assert len({check.what for check in checks}) == len(checks)
    assert all(check.text for check in checks)


def test_a_run_is_found_by_its_name_and_shown_as_a_cluster_shows_a_job(
    srt: Srt, run: RunLayout
) -> None:
    document = json.loads(srt("get", "sums", "-o", "json").out)
    assert document["kind"] == "SRTJob"
    assert document["status"]["phase"] == "Complete"
    assert yaml.safe_load(srt("get", run.root, "-o", "yaml").out) == document
    rows = [line.split() for line in srt("get", "runs").out.splitlines()]
    assert rows == [["NAME", "PHASE", "STEP", "ROLLOUT", "HITRATE"], ["sums", "Complete", "3/3"]]


def test_a_run_that_is_settled_is_watched_to_its_end(srt: Srt, run: RunLayout) -> None:
    append_line(run.metrics, {"kind": "eval", "step": 3, "eval_accuracy": 0.5, "eval_samples": 8})
    answer = srt("watch", "sums")
    assert answer.exit_code == 0
    assert "accuracy 50.0% of 8 samples after 3 steps" in answer.out


def test_a_run_that_goes_on_hears_what_is_wanted_of_it(srt: Srt, run: RunLayout) -> None:
    with locked(run):
        assert srt("suspend", "sums", "--dry-run").out == "run/sums suspended (dry run)\n"
        assert Wishes(run.job, begun_with=Wish()).now() == Wish()
        assert srt("suspend", "sums").out == "run/sums suspended\n"
        assert Wishes(run.job, begun_with=Wish()).now() == Wish(is_suspended=True)
        assert srt("cancel", run.root).out == "run/sums cancelled\n"
        assert Wishes(run.job, begun_with=Wish()).now() == Wish(is_cancelled=True)
        assert "it runs; allowed is a run that was suspended" in srt("resume", "sums").err


def test_a_run_that_does_not_go_on_cannot_be_stopped_and_one_that_is_done_not_resumed(
    srt: Srt, run: RunLayout
) -> None:
    for command in ("suspend", "cancel"):
        answer = srt(command, "sums")
        assert answer.exit_code == 2
        assert "RUN is 'sums': it does not run" in answer.err
    assert "it is complete" in srt("resume", "sums").err


def test_a_run_is_deleted_with_its_folder_once_nobody_works_on_it(srt: Srt, run: RunLayout) -> None:
    srt("delete", "sums", "--dry-run")
    assert run.root.exists()

    def work() -> None:
        wishes = Wishes(run.job, begun_with=Wish())
        with locked(run):
            is_held.set()
            while not wishes.now().is_cancelled:
                time.sleep(0.01)
            time.sleep(0.3)
            was_there.append(run.root.exists())

    is_held, was_there = threading.Event(), list[bool]()
    worker = threading.Thread(target=work)
    worker.start()
    assert is_held.wait(20)
    assert srt("delete", "sums").out == "run/sums deleted\n"
    worker.join(20)
    assert was_there == [True]
    assert not run.root.exists()


def test_top_shows_the_last_reading_of_a_run_that_goes_on(srt: Srt, run: RunLayout) -> None:
    load = EngineLoad("rollout-0", 7, 16, 2, 5, 3, 2)
    now = {"rollout-0": msgspec.to_builtins(EngineNow(load=load, tokens_per_step=2.5))}
    status = SRTJobStatus(phase=Phase.RUNNING, progress=Progress(step=1, steps=3))
    run.status.write_text(status.model_dump_json(by_alias=True))
    append_line(run.engines, {"at_unix": time.time(), "engines": {}, "now": now})
    assert "sums: it does not run" in srt("top", "sums", "--once").out
    with locked(run):
        rows = [line.split() for line in srt("top", "sums", "--once").out.splitlines()]
        assert rows[1] == ["sums", "Running", "1/3", "5", "3", "2", "-"]
        assert "2.50" in rows[-1]
        [told] = json.loads(srt("top", "sums", "-o", "json").out)
    assert told["engines"]["rollout-0"]["load"]["num_waiting_policy"] == 3


def test_a_trace_that_is_not_there_is_refused_with_where_it_would_be(
    srt: Srt, run: RunLayout
) -> None:
    assert "allowed are none yet" in srt("trace", "sums").err
    answer = srt("trace", "elsewhere")
    assert answer.exit_code == 2
    assert "telemetry.otlpEndpoint" in answer.err


def test_a_file_of_one_namespace_is_not_submitted_to_another(srt: Srt, job: Path) -> None:
    job.write_text(job.read_text().replace("metadata: {", "metadata: {namespace: prod, "))
    answer = srt("submit", job, "-n", "team")
    assert answer.exit_code == 2
    sentence = "metadata.namespace is 'prod'; allowed beside -n team are that and none"
    assert sentence in answer.err
