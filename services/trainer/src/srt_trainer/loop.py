"""The training loop: one optimizer step after the other.

    rollout -> reward -> journal -> train -> weight_sync -> report -> [checkpoint] -> [eval] -> next
    step

* Step k samples with policy version k, and its update makes version k + 1: `num_iterations`
  optimizer updates on the same rollouts are one step.
* A step is finished once its journal record is on disk. `resume` redoes the updates of finished
  steps that no checkpoint holds, from their records, and samples nothing twice.
* torch runs in one thread of its own, so the event loop goes on answering while the policy learns.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from opentelemetry import trace

from srt_common.clock import Clock
from srt_common.coordination import Phase
from srt_common.telemetry import names
from srt_common.telemetry.instruments import RolloutInstruments
from srt_trainer.algorithms.base import Algorithm
from srt_trainer.announcements import Announcer
from srt_trainer.checkpoint import Checkpoints
from srt_trainer.datasets import Tokenizer
from srt_trainer.durable_files import durable_folder, write_durably
from srt_trainer.engine_pool import EnginePool
from srt_trainer.evaluation import Evaluator
from srt_trainer.journal import Journal
from srt_trainer.policy import Policy, UpdateStatistics
from srt_trainer.report_lines import step_line, summary
from srt_trainer.reporting import Reporter
from srt_trainer.rewards.base import RewardFunction, score
from srt_trainer.rollout_client import RolloutClient
from srt_trainer.rollouts import StepRecord
from srt_trainer.step_plan import StepPlanner
from srt_trainer.weights import WeightsFolder

Result = TypeVar("Result")
Seconds: TypeAlias = dict[str, float | None]
"""What each phase took, under ``<phase>_seconds``; None: not known."""

_TRACER = trace.get_tracer("srt_trainer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is learnt, and how it is judged."""

    planner: StepPlanner
    algorithm: Algorithm
    reward: RewardFunction
    tokenizer: Tokenizer
    evaluator: Evaluator | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What lies on disk of a run, or goes there."""

    folder: Path
    journal: Journal
    checkpoints: Checkpoints
    checkpoint_every_steps: int
    weights: WeightsFolder
    reporter: Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What speaks to other processes."""

    pool: EnginePool
    client: RolloutClient
    announcer: Announcer
    instruments: RolloutInstruments


class TrainingLoop:
    """Takes a job from wherever it stands to its last step."""

    def __init__(
        self, *, task: Task, policy: Policy, run: Run, engines: Engines, clock: Clock
    ) -> None:
        self._task = task
        self._policy = policy
        self._run = run
        self._engines = engines
        self._clock = clock
        self._num_steps = task.planner.algorithm.steps
        self._torch = ThreadPoolExecutor(max_workers=1, thread_name_prefix="srt-torch")
        self._is_stopping = threading.Event()
        self.step = 0
        """Finished steps, and so the policy version that samples next."""

    async def run(self) -> None:
        """Do every step that is left, and write the result.

        Cancelling it leaves a state from which another process goes on.
        """
        try:
            await self._resume()
            if self.step < self._num_steps or self._is_evaluation_due():
                with self._phase("weight_sync", None):
                    await self._publish_weights(self.step)
            await self._evaluate_if_due()
            while self.step < self._num_steps:
                await self._do_step()
                await self._checkpoint_if_due()
                await self._evaluate_if_due()
            await self._in_torch(self._write_result)
        finally:
            self._is_stopping.set()
            self._torch.shutdown()
        self._engines.announcer.enter("finished", step=self.step, policy_version=self.step)

    async def _resume(self) -> None:
        """Bring policy and reports to the end of the last finished step."""
        self.step = await self._in_torch(lambda: self._run.checkpoints.restore(self._policy))
        while (record := self._run.journal.read(self.step)) is not None:
            seconds: Seconds = {"weight_sync_seconds": None, "step_seconds": None}
            with self._phase("train", None, seconds):
                statistics = await self._in_torch(partial(self._learn, record))
            self._run.reporter.write(step_line(record, statistics, seconds))
            self.step += 1
        self._run.reporter.keep_before(self.step)

    async def _do_step(self) -> None:
        seconds: Seconds = {}
        started = self._clock.monotonic()
        with _TRACER.start_as_current_span(names.SPAN_STEP, attributes=self._attributes()):
            if (window := self._task.planner.window(self.step)) is not None:
                self._engines.announcer.show(window)
            record = await self._collect(seconds)
            await self._in_torch(partial(self._run.journal.write, record))
            with self._phase("train", names.SPAN_TRAIN, seconds):
                statistics = await self._in_torch(partial(self._learn, record))
            with self._phase("weight_sync", names.SPAN_WEIGHT_SYNC, seconds):
                await self._publish_weights(self.step + 1)
        self.step += 1
        seconds["step_seconds"] = self._clock.monotonic() - started
        self._run.reporter.write(step_line(record, statistics, seconds))

    async def _collect(self, seconds: Seconds) -> StepRecord:
        """Sample and score the rollouts of the current step."""
        with self._phase("rollout", names.SPAN_ROLLOUT_BATCH, seconds):
            rollouts = await self._engines.client.sample(
                self._task.planner.tasks(self.step), policy_version=self.step
            )
        with self._phase("reward", names.SPAN_REWARD, seconds):
            rewards = await asyncio.to_thread(
                score, self._task.reward, rollouts, self._task.planner.prompts, self._task.tokenizer
            )
        return StepRecord(
            step=self.step,
            rollouts=rollouts,
            rewards=rewards,
            rollout_seconds=seconds["rollout_seconds"] or 0.0,
            reward_seconds=seconds["reward_seconds"] or 0.0,
        )

    def _learn(self, record: StepRecord) -> UpdateStatistics:
        return self._policy.update(
            record.rollouts,
            record.rewards,
            self._task.algorithm,
            should_stop=self._is_stopping.is_set,
        )

    async def _publish_weights(self, policy_version: int) -> None:
        write = partial(self._run.weights.write, policy_version, self._policy)
        await self._engines.pool.publish(await self._in_torch(write))

    async def _checkpoint_if_due(self) -> None:
        if self.step % self._run.checkpoint_every_steps and self.step < self._num_steps:
            return
        with self._phase("checkpoint", None):
            await self._in_torch(lambda: self._run.checkpoints.save(self.step, self._policy))
            await self._in_torch(lambda: self._run.journal.prune(self.step))

    def _is_evaluation_due(self) -> bool:
        evaluator = self._task.evaluator
        is_due = evaluator is not None and evaluator.is_due(self.step, last_step=self._num_steps)
        return is_due and not self._run.reporter.has("eval", self.step)

    async def _evaluate_if_due(self) -> None:
        if self._task.evaluator is None or not self._is_evaluation_due():
            return
        with self._phase("eval", names.SPAN_EVALUATION):
            line = await self._task.evaluator.evaluate(self._engines.client, self.step)
        self._run.reporter.write(line)

    def _write_result(self) -> None:
        """Leave the trained policy, as the hub has models, and the summary."""
        with durable_folder(self._run.folder / "final") as folder:
            self._policy.save_weights(folder)
            self._task.tokenizer.save_pretrained(folder)
        numbers = summary(self._task.planner.job, self._run.reporter.lines)
        content = json.dumps(numbers, indent=2).encode()
        write_durably(self._run.folder / "trainer_summary.json", content)

    @contextmanager
    def _phase(
        self, phase: Phase, span: str | None, seconds: Seconds | None = None
    ) -> Iterator[None]:
        """Announce a phase, trace it where it has a span, and keep what it took."""
        self._engines.announcer.enter(phase, step=self.step, policy_version=self.step)
        started = self._clock.monotonic()
        traced = (
            _TRACER.start_as_current_span(span, attributes=self._attributes()) if span else None
        )
        with traced or nullcontext():
            yield
        duration = self._clock.monotonic() - started
        self._engines.instruments.step_duration.record(duration, {names.ATTR_PHASE: phase})
        if seconds is not None:
            seconds[f"{phase}_seconds"] = duration

    def _attributes(self) -> dict[str, int]:
        return {names.ATTR_STEP: self.step, names.ATTR_POLICY_VERSION: self.step}

    async def _in_torch(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._torch, function)
