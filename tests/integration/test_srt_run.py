"""`srt run` with every part real: any process may be killed and the job still finishes; killing
`srt run` itself, or Ctrl-C, leaves nothing behind, and a resumed run loses and doubles nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from srt_common.telemetry.span_file import SpanRecord, read_folder
from srt_operator.backends import guardian
from srt_operator.backends.guardian import descendants
from srt_operator.layout import RunLayout
from srt_operator.run_lines import of_kind, read_lines
from support.tiny_model import make_tiny_model

pytestmark = [pytest.mark.processes, pytest.mark.vllm, pytest.mark.timeout(900)]

STEPS = 9
VICTIMS = ("srt_trainer", "srt_tree_cache", "srt_runahead", "valkey-server", "srt_rollout")
PROMPTS, ROLLOUTS = 2, 4
JOB = """
apiVersion: srt-rl.dev/v1alpha1
kind: SRTJob
metadata: {{name: sums}}
spec:
  model: {{uri: "file://{model}"}}
  dataset: {{uri: "reasoning-gym://chain_sum?seed=1&size=4&max_terms=2&max_digits=1"}}
  sampling: {{maxPromptTokens: 128, maxResponseTokens: 40}}
  algorithm:
    {{type: GRPO, steps: {steps}, promptsPerStep: {prompts}, rolloutsPerPrompt: {rollouts}}}
  optimizer: {{maxTokensPerMicroBatch: 2048}}
  storage: {{checkpointEverySteps: 3}}
  rollout:
    template:
      drainSeconds: 3
      engine: {{maxNumSeqs: 6, maxModelLen: 256, kvCacheMemory: 32Mi}}
  treeCache: {{template: {{shards: 16, retention: {{maxBytes: 64Mi}}}}}}
  telemetry: {{traceSampleRatio: 1.0}}
  runAhead:
    reserveSlots: 1
    chunkTokens: 16
    bubble: {{openAfterSeconds: 0.1, minRemainingSeconds: 0.1, cooldownSeconds: 0.1, learnSteps: 1}}
"""


class SrtRun:
    """One `srt run` and what can be seen of it from outside."""

    def __init__(self, job: Path, layout: RunLayout, *options: str) -> None:
        self.layout = layout
        command = [sys.executable, "-c", "from srt_operator.cli import main; main()", "run"]
        self._log = (layout.root.parent / "srt-run.log").open("ab")
        self.process = subprocess.Popen(
            [*command, str(job), "--run-dir", str(layout.root), *options],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def num_steps(self) -> int:
        return len(of_kind(read_lines(self.layout.metrics), "step"))

    def states(self) -> dict[str, str]:
        try:
            status: dict[str, Any] = json.loads(self.layout.status.read_text())
        except (OSError, ValueError):
            return {}
        return {process["name"]: process["state"] for process in status["processes"]}

    def wait_until(self, holds: Callable[[], bool], seconds: float = 400.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, f"srt run ended: {self.output()}"
            assert time.monotonic() < deadline, f"waited too long: {self.output()}"
            time.sleep(0.05)

    def output(self) -> str:
        return (self.layout.root.parent / "srt-run.log").read_text()[-3000:]

    def service(self, name: str) -> int:
        """Process id of a service itself, the child of its guardian."""
        for pid in descendants(self.process.pid):
            words = command_line(pid)
            is_its_guardian = guardian.__file__ in words and any(w.endswith(name) for w in words)
            if is_its_guardian:
                return descendants(pid)[0]
        raise AssertionError(f"no {name} runs: {self.output()}")

    def end(self) -> None:
        below = descendants(self.process.pid)
        for pid in [*below, self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return [""]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_end(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(is_alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("srt-run")
    model = make_tiny_model(folder / "model", seed=3)
    path = folder / "job.yaml"
    path.write_text(JOB.format(model=model, steps=STEPS, prompts=PROMPTS, rollouts=ROLLOUTS))
    return path


@pytest.fixture
def start(job: Path, tmp_path: Path) -> Iterator[Callable[..., SrtRun]]:
    runs: list[SrtRun] = []

    def run(*options: str) -> SrtRun:
        runs.append(SrtRun(job, RunLayout(tmp_path / "run"), *options))
        return runs[-1]

    yield run
    for one in runs:
        one.end()


def rewards(layout: RunLayout) -> list[float]:
    return [line["reward_mean"] for line in of_kind(read_lines(layout.metrics), "step")]


def has_steps(run: SrtRun, number: int) -> bool:
    return run.num_steps() >= number


def assert_every_step_is_there_once(layout: RunLayout) -> None:
    steps = of_kind(read_lines(layout.metrics), "step")
    assert [line["step"] for line in steps] == list(range(STEPS))
    assert {line["num_rollouts"] for line in steps} == {PROMPTS * ROLLOUTS}
    summary = json.loads(layout.summary.read_text())
    assert summary["arms"]["on"]["steps"] == STEPS
    assert summary["arms"]["on"]["num_rollouts"] == STEPS * PROMPTS * ROLLOUTS


def assert_a_rollout_can_be_followed(layout: RunLayout) -> None:
    """From the step that asked for it through trainer, gateway and engine to the tree cache."""
    spans = {span.span_id: span for span in read_folder(layout.telemetry)}
    fetches = [span for span in spans.values() if span.name == "tree_store.snapshot"]
    paths = {tuple(f"{span.service}/{span.name}" for span in upwards(spans, of)) for of in fetches}
    assert (
        "srt-tree-cache/tree_store.snapshot",
        "srt-tree-cache/tree_cache.prefetch",
        "srt-rollout/gateway.generate",
        "srt-trainer/rollout.generate",
        "srt-trainer/rollout.batch",
        "srt-trainer/srt.step",
    ) in paths
    drafted = [span for span in spans.values() if span.name == "engine.rollout"]
    names = {tuple(span.name for span in upwards(spans, of)) for of in drafted}
    client = ("gateway.generate", "rollout.generate", "rollout.batch", "srt.step")
    assert ("engine.rollout", *client) in names


def upwards(spans: dict[str, SpanRecord], span: SpanRecord) -> Iterator[SpanRecord]:
    """A span and those above it, by parent or, at the root of a trace, by link."""
    above: SpanRecord | None = span
    while above is not None:
        yield above
        of = above.parent_span_id or next((span_id for _, span_id in above.links), None)
        above = spans.get(of or "")


def test_whatever_is_killed_the_job_finishes_and_nothing_is_lost_or_doubled(
    start: Callable[..., SrtRun],
) -> None:
    """First `srt run` itself, then each process of the resumed run in turn: one long test, since
    engines take most of its time to start.
    """
    run = start()
    run.wait_until(lambda: run.num_steps() >= 2)
    below = descendants(run.process.pid)
    assert len(below) > 10
    run.process.kill()
    run.process.wait()
    assert all_end(below, seconds=5.0), [command_line(pid) for pid in below if is_alive(pid)]
    kept = rewards(run.layout)

    resumed = start("--resume")
    for number, victim in enumerate(VICTIMS, start=len(kept) + 1):
        resumed.wait_until(partial(has_steps, resumed, number))
        os.kill(resumed.service(victim), signal.SIGKILL)
    assert resumed.process.wait(500) == 0, resumed.output()
    assert_every_step_is_there_once(run.layout)
    assert_a_rollout_can_be_followed(run.layout)
    assert rewards(run.layout)[: len(kept)] == kept
    status = json.loads(run.layout.status.read_text())
    restarts = {process["name"]: process["restarts"] for process in status["processes"]}
    assert set(restarts.values()) == {1}, restarts
    assert run.layout.report.read_text().startswith("<!DOCTYPE html>")


def test_ctrl_c_leaves_nothing_and_says_how_to_go_on(start: Callable[..., SrtRun]) -> None:
    run = start()
    run.wait_until(lambda: run.states().get("rollout-0") == "Starting")
    time.sleep(3.0)  # until vLLM is one of several processes
    below = descendants(run.process.pid)
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(60) == 130
    assert not any(map(is_alive, below)), [command_line(pid) for pid in below if is_alive(pid)]
    assert f"srt resume {run.layout.root}" in run.output()
    assert Counter(run.states().values())["Ready"] == 0


def srt(*words: object) -> str:
    """What another `srt` says while a run goes on."""
    command = [sys.executable, "-c", "from srt_operator.cli import main; main()", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_is_looked_at_suspended_and_taken_up_again(start: Callable[..., SrtRun]) -> None:
    run = start()
    run.wait_until(lambda: run.num_steps() >= 2)
    [seen] = json.loads(srt("top", run.layout.root, "-o", "json"))
    assert list(seen["engines"]) == ["rollout-0"]
    assert seen["engines"]["rollout-0"]["load"]["max_num_seqs"] == 6
    assert seen["phase"] == "Running"
    below = descendants(run.process.pid)
    assert srt("suspend", run.layout.root) == "run/run suspended\n"
    assert run.process.wait(120) == 0, run.output()
    assert not any(map(is_alive, below))
    assert json.loads(run.layout.status.read_text())["phase"] == "Suspended"
    kept = rewards(run.layout)
    assert len(kept) < STEPS
    srt("resume", run.layout.root)
    assert_every_step_is_there_once(run.layout)
    assert rewards(run.layout)[: len(kept)] == kept
    assert "rollout.batch" in srt("trace", run.layout.root, "--step", len(kept))
    assert srt("delete", run.layout.root) == "run/run deleted\n"
    assert not run.layout.root.exists()
