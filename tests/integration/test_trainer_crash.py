"""SIGKILL anywhere, start again: no finished step is lost, no rollout is learnt from twice (promise
7).

The engines sample the same rollouts whenever they are asked with the same weights, so a run with
crashes must end with the weights of the run without, bit for bit, and with the same numbers.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.sampling_engine import SamplingEngine
from support.tiny_model import make_tiny_model
from support.trainer_jobs import job_document
from support.trainer_process import start_trainer

pytestmark = [pytest.mark.timeout(240), pytest.mark.processes]

NUM_STEPS = 5
ALGORITHM = {"steps": NUM_STEPS, "prompts_per_step": 2, "rollouts_per_prompt": 2}
EVALUATION = {
    "uri": "reasoning-gym://chain_sum?seed=2&size=4&max_digits=1",
    "every_steps": 3,
    "samples": 2,
}
MAX_CRASHES = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


class Job:
    """A job's folder with the engine it is run against."""

    def __init__(self, folder: Path, engine: SamplingEngine) -> None:
        self.folder = folder
        self.engine = engine
        self.sampled_again: list[str] = []
        self.document = job_document(
            folder,
            model={"path": str(engine.model_folder)},
            algorithm=ALGORITHM,
            evaluation=EVALUATION,
            reward="support.rewards:digits",
            sampling={"max_prompt_tokens": 128, "max_response_tokens": 12},
            engines=[{"name": engine.name, "url": engine.url}],
        )

    async def run(self, *, die_at: int | None = None) -> bool:
        """One process; whether it finished the job."""
        process = start_trainer(self.document, die_at=die_at)
        self.kill = process.kill
        has_ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(process.sentinel, has_ended.set)
        try:
            await has_ended.wait()
        finally:
            loop.remove_reader(process.sentinel)
            process.kill()
            process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode == 0

    def note_request(self, request: dict[str, Any]) -> None:
        """Keep rollouts that are asked for although their step is finished."""
        rollout_id = request["sampling_params"]["extra_args"]["srt_rollout_id"]
        step = rollout_id.split("/")[1]
        if step != "eval" and (self.folder / f"run/journal/step-{step:0>6}.msgpack").exists():
            self.sampled_again.append(rollout_id)

    def result(self) -> tuple[bytes, list[dict[str, Any]]]:
        """Final weights, and the lines of the run without what they took."""
        lines = (self.folder / "run/metrics.jsonl").read_text().splitlines()
        return (
            (self.folder / "run/final/model.safetensors").read_bytes(),
            [without_seconds(json.loads(line)) for line in lines],
        )


def without_seconds(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if not name.endswith("seconds")}


@asynccontextmanager
async def job_in(folder: Path, model: Path) -> AsyncIterator[Job]:
    engine = SamplingEngine("engine-0", model=model, weights_root=folder / "weights")
    async with engine:
        yield Job(folder, engine)


@pytest.fixture(scope="module")
def undisturbed(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, list[dict[str, Any]]]:
    async def run() -> tuple[bytes, list[dict[str, Any]]]:
        async with job_in(tmp_path_factory.mktemp("undisturbed"), model) as job:
            assert await job.run()
            return job.result()

    return asyncio.run(run())


def test_the_run_without_crashes_learns_something(
    model: Path, undisturbed: tuple[bytes, list[dict[str, Any]]]
) -> None:
    weights, lines = undisturbed
    assert weights != (model / "model.safetensors").read_bytes()
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(NUM_STEPS))
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [0, 3, 5]
    assert sum(line["grad_norm"] > 0 for line in lines if line["kind"] == "step") >= 3


@pytest.mark.parametrize("seed", range(8))
async def test_a_job_whose_processes_die_at_any_point_ends_as_if_none_had(
    model: Path,
    tmp_path: Path,
    undisturbed: tuple[bytes, list[dict[str, Any]]],
    seed: int,
) -> None:
    """Dozens of points a run: within, before and after each write of journal, line and
    checkpoint."""
    points = random.Random(seed)
    async with job_in(tmp_path, model) as job:
        job.engine.on_request = job.note_request
        crashes = 0
        while not await job.run(die_at=points.randint(4, 36)):
            crashes += 1
            assert crashes < MAX_CRASHES
        assert crashes >= 2
        assert job.sampled_again == []
        assert job.result() == undisturbed


async def test_a_job_killed_while_it_samples_ends_as_if_it_had_not_been(
    model: Path, tmp_path: Path, undisturbed: tuple[bytes, list[dict[str, Any]]]
) -> None:
    """In the first evaluation, in the midst of steps 0 and 2, and in the evaluation after step
    3."""
    async with job_in(tmp_path, model) as job:
        moments = {"tiny/eval/0/1", "tiny/0/1/0", "tiny/2/0/1", "tiny/eval/3/0"}

        def kill(request: dict[str, Any]) -> None:
            rollout_id = request["sampling_params"]["extra_args"]["srt_rollout_id"]
            if rollout_id in moments:
                moments.remove(rollout_id)
                job.kill()

        job.engine.on_request = kill
        finished = [await job.run() for _ in range(5)]
        assert finished == [False, False, False, False, True]
        assert job.result() == undisturbed
