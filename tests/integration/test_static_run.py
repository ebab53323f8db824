"""The operator of docker compose beside a real server and endpoints that answer: it leaves what the
others wait for, waits for the trainer, writes status, summary and report, and shows the table.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console

from srt_common.clock import SystemClock
from srt_common.coordination import Coordination, Phase, PhaseReport
from srt_common.errors import ConfigurationError
from srt_operator import static_run
from srt_operator.backends.static import StaticBackend
from srt_operator.job_file import load_job
from srt_operator.layout import RunLayout
from srt_operator.resources import SRTJob
from srt_operator.run_lines import append_line
from srt_operator.static_run import StaticSettings, given_site, run_given
from srt_trainer.settings import parse_settings
from support.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "examples" / "tiny-math" / "job.yaml"
STEP = {
    "kind": "step",
    "step": 0,
    "reward_mean": 0.5,
    "rollout_seconds": 2.0,
    "num_rollouts": 8,
    "num_generated_tokens": 88,
    "num_request_steps": 32,
}


class Answer(BaseHTTPRequestHandler):
    """Ready, whatever is asked."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def job() -> SRTJob:
    overrides = ["spec.runAhead.enabled=false", "spec.algorithm.steps=1"]
    return load_job(FILE.read_text(), overrides=overrides)


async def trainer(url: str, layout: RunLayout, *phases: Phase) -> None:
    """Waits for its job description, as the compose file has it, leaves the line of a step and says
    what it does.
    """
    coordination = Coordination.from_url(url, job="tiny-math")
    while not layout.trainer_settings.exists():  # noqa: ASYNC110 - what a health check does
        await asyncio.sleep(0.05)
    append_line(layout.metrics, STEP)
    for phase in phases:
        await coordination.publish_phase(PhaseReport(phase, 0, 0, 0, time.time()))
        await asyncio.sleep(2.0)
    await coordination.close()


async def run(
    job: SRTJob, url: str, address: str, folder: Path, *phases: Phase, exit_code: int = 0
) -> str:
    """What the operator of a job prints that ends with this status."""
    settings = StaticSettings(
        job_file=FILE,
        run_dir=folder,
        endpoints=dict.fromkeys(("tree-cache-0", "rollout-0", "rollout-1"), address),
        redis_url=SecretStr(url),
    )
    site, shown = given_site(job, settings), io.StringIO()
    async with asyncio.timeout(25.0):
        ended_with, _ = await asyncio.gather(
            run_given(job, site, Console(file=shown), SystemClock()),
            trainer(url, site.layout, *phases),
        )
    assert ended_with == exit_code
    return shown.getvalue()


async def test_a_job_runs_to_its_end_and_again(job: SRTJob, address: str, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "tiny-math")
    with RedisServer.started() as server:
        shown = await run(job, server.url, address, layout.root, "rollout", "finished")
        assert re.search(r"tokens per step +│ +2\.50", shown), shown
        assert layout.report.exists()
        status = json.loads(layout.status.read_text())
        assert status["phase"] == "Complete"
        states = {one["name"]: one["state"] for one in status["processes"]}
        assert set(states) == {"server", "tree-cache-0", "rollout-0", "rollout-1", "trainer"}
        assert layout.token.stat().st_mode & 0o777 == 0o600
        settings = parse_settings(json.loads(layout.trainer_settings.read_text()))
        assert {engine.url for engine in settings.engines} == {address}
        token = layout.token.read_text()
        await run(job, server.url, address, layout.root, "rollout", "finished")
        assert layout.token.read_text() == token


async def test_a_run_that_fails_says_why(
    job: SRTJob, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = partial(StaticBackend, lost_after_seconds=0.5)
    monkeypatch.setattr(static_run, "StaticBackend", impatient)
    monkeypatch.setattr(static_run, "PHASE_MAX_AGE_SECONDS", 1.0)
    spec = job.spec.model_copy(update={"backoff_limit": 0})
    once = job.model_copy(update={"spec": spec})
    with RedisServer.started() as server:
        shown = await run(once, server.url, address, tmp_path / "once", "rollout", exit_code=1)
    why = "trainer ended with status 1 (not seen for 0.5 s) after 0 restarts"
    assert f"Failed (BackoffLimitExceeded): {why}" in shown


async def test_another_job_in_the_same_folder_is_refused(
    job: SRTJob, address: str, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny-math"
    other = load_job(FILE.read_text(), overrides=["spec.algorithm.promptsPerStep=4"])
    with RedisServer.started() as server:
        await run(job, server.url, address, folder, "rollout", "finished")
        with pytest.raises(ConfigurationError, match="promptsPerStep"):
            await run(other, server.url, address, folder)
