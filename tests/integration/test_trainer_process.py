"""``python -m srt_trainer``: exit statuses, signals, logs and spans of the process as others see
it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from support.sampling_engine import SamplingEngine
from support.tiny_model import make_tiny_model
from support.trainer_jobs import job_document
from support.trainer_process import exit_status, start_program

pytestmark = [pytest.mark.timeout(120), pytest.mark.processes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tiny_model(tmp_path / "model")
    return tmp_path


class Program:
    """One trainer process with its engine, config and log."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.folder = folder
        self.log = folder / "log.jsonl"
        self.engine = SamplingEngine(
            "engine-0", model=folder / "model", weights_root=folder / "weights"
        )
        endpoints = [{"name": "engine-0", "url": self.engine.url}]
        document = job_document(folder, engines=endpoints, reward="support.rewards:digits")
        self.config = folder / "trainer.json"
        self.config.write_text(json.dumps({**document, **fields}))

    def start(self) -> ForkServerProcess:
        environment = {"SRT_TELEMETRY_DIR": str(self.folder / "telemetry")}
        return start_program(self.config, environment=environment, log=self.log)

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def test_wrong_settings_are_told_at_once_each_in_a_sentence(tmp_path: Path) -> None:
    config = tmp_path / "trainer.json"
    document = job_document(tmp_path, look_ahead_steps=-1, job="Not A Name")
    config.write_text(json.dumps(document))
    result = subprocess.run(
        [sys.executable, "-m", "srt_trainer", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    faults = [json.loads(line)["fault"] for line in result.stderr.splitlines()]
    assert [fault.split(" ")[0] for fault in faults] == ["job", "look_ahead_steps"]


def test_a_wrong_or_misspelt_variable_is_told_in_a_sentence(tmp_path: Path) -> None:
    config = tmp_path / "trainer.json"
    config.write_text(json.dumps(job_document(tmp_path)))
    wrong = {"SRT_TRAINER_WEIGHTS_URL": "trainer:8090", "SRT_TRAINER_WEIGHT_PORT": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "srt_trainer", "--config", str(config)],
        env=dict(os.environ) | wrong,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    misspelt, refused = (json.loads(line)["fault"] for line in result.stderr.splitlines())
    assert misspelt.endswith("did you mean SRT_TRAINER_WEIGHTS_PORT?")
    assert refused.startswith("SRT_TRAINER_WEIGHTS_URL is 'trainer:8090'")


async def test_what_the_settings_name_and_is_not_there_is_told_in_a_sentence(
    folder: Path,
) -> None:
    program = Program(folder, model={"path": str(folder / "absent")})
    assert await exit_status(program.start()) == 2
    assert program.log_lines()[-1]["fault"].startswith("model: there is no config.json in ")


async def test_a_finished_job_ends_with_0_and_leaves_its_spans(folder: Path) -> None:
    program = Program(folder)
    async with program.engine:
        assert await exit_status(program.start()) == 0
    (path,) = (folder / "telemetry").glob("srt-trainer-*[0-9].jsonl")
    names = re.findall(r'"name": ?"([a-z_.]+)"', path.read_text())
    assert names.count("srt.step") == 4
    assert names.count("rollout.generate") == 32


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_signal_stops_it_soon_and_the_next_process_goes_on(
    folder: Path, number: signal.Signals, status: int
) -> None:
    program = Program(folder)
    engine = program.engine
    async with engine:
        process = program.start()

        def interrupt(request: dict[str, Any]) -> None:
            if "/2/" in request["sampling_params"]["extra_args"]["srt_rollout_id"]:
                engine.on_request = lambda _: None
                engine.delay_seconds = 60.0
                assert process.pid is not None
                os.kill(process.pid, number)

        engine.on_request = interrupt
        async with asyncio.timeout(90):
            assert await exit_status(process) == status
        assert program.log_lines()[-1]["signal"] == number.name
        engine.delay_seconds = 0.0
        assert await exit_status(program.start()) == 0
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]


async def test_a_crash_is_logged_without_what_the_error_quotes(folder: Path) -> None:
    program = Program(folder, reward="support.rewards:broken")
    async with program.engine:
        assert await exit_status(program.start()) == 1
    crash = program.log_lines()[-1]
    assert (crash["message"], crash["error"]) == ("the trainer failed", "ValueError")
    assert any("rewards.py" in frame for frame in crash["frames"])
    assert "SECRET" not in program.log.read_text()


async def test_a_refused_request_ends_the_job_with_the_reason(folder: Path) -> None:
    program = Program(folder)
    async with program.engine:
        program.engine.statuses = [422]
        assert await exit_status(program.start()) == 1
    crash = program.log_lines()[-1]
    assert crash["error"] == "EngineRefused"
    assert "was answered 422" in crash["reason"]
