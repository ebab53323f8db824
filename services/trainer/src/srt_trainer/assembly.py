"""Builds the parts of the trainer from its settings and runs them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import torch
import transformers
from opentelemetry import metrics

from srt_common.bearer import BearerToken
from srt_common.clock import SystemClock
from srt_common.coordination import Coordination
from srt_common.errors import ConfigurationError
from srt_common.keys import read_cache_secret, read_secret, tokenizer_fingerprint
from srt_common.telemetry.instruments import RolloutInstruments
from srt_trainer.algorithms.grpo import GRPO
from srt_trainer.announcements import Announcer
from srt_trainer.checkpoint import Checkpoints
from srt_trainer.datasets import Prompt, Table, Tokenizer, build_prompts, load_table
from srt_trainer.engine_client import EngineClient, open_http
from srt_trainer.engine_pool import EnginePool
from srt_trainer.engine_sources import behind_service, listed
from srt_trainer.environments.single_turn import SingleTurn
from srt_trainer.evaluation import Evaluator
from srt_trainer.journal import Journal
from srt_trainer.loop import Engines, Run, Task, TrainingLoop
from srt_trainer.policy import Policy
from srt_trainer.reporting import Reporter, open_sinks
from srt_trainer.rewards.base import find_reward
from srt_trainer.rollout_client import RolloutClient, SamplingPlan
from srt_trainer.serving import ServingSettings, check_serving
from srt_trainer.settings import DatasetSettings, TrainerSettings
from srt_trainer.step_plan import PromptKeys, StepPlanner
from srt_trainer.weights import WeightsFolder
from srt_trainer.weights_server import WeightsServer

CLOCK = SystemClock()


async def train(settings: TrainerSettings, serving: ServingSettings) -> None:
    """Do every step that is left of a job.

    Raises:
        ConfigurationError: something that the settings name cannot be used; nothing was started.
    """
    check_serving(serving, settings)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    inputs = load_inputs(settings)
    grpo = settings.algorithm.grpo
    algorithm = GRPO(
        grpo,
        num_generations=settings.algorithm.rollouts_per_prompt,
        max_completion_length=settings.sampling.max_response_tokens,
    )
    policy = Policy.load(settings, needs_reference=algorithm.needs_reference)
    sampling = sampling_plan(settings, stop_token_ids(inputs.tokenizer, policy.model))
    task = Task(
        planner=StepPlanner(
            job=settings.job,
            algorithm=settings.algorithm,
            prompts=inputs.prompts,
            keys=inputs.keys,
            sampling=sampling,
            look_ahead_steps=settings.look_ahead_steps if settings.cache else None,
        ),
        algorithm=algorithm,
        reward=find_reward(settings.reward, inputs.table),
        tokenizer=inputs.tokenizer,
        evaluator=_evaluator(settings, inputs),
    )
    run = open_run(settings, weights_url=serving.weights_url)
    try:
        async with serve_weights(settings, serving), open_engines(settings, sampling) as engines:
            loop = TrainingLoop(task=task, policy=policy, run=run, engines=engines, clock=CLOCK)
            await loop.run()
    finally:
        run.reporter.close()


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is read before anything is started."""

    tokenizer: Tokenizer
    keys: PromptKeys
    table: Table
    prompts: list[Prompt]


def load_inputs(settings: TrainerSettings) -> Inputs:
    """Read tokenizer and prompts. Raises ConfigurationError."""
    folder = settings.model.tokenizer_path or settings.model.path
    for name, path in (("config.json", settings.model.path), ("tokenizer.json", folder)):
        if not (path / name).is_file():
            raise ConfigurationError(faults=[f"model: there is no {name} in {path}"])
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
        folder, trust_remote_code=settings.model.trust_remote_code, local_files_only=True
    )
    table = _table(settings, settings.dataset)
    return Inputs(
        tokenizer=tokenizer,
        keys=PromptKeys(
            secret=_cache_secret(settings),
            fingerprint=tokenizer_fingerprint((folder / "tokenizer.json").read_bytes()),
        ),
        table=table,
        prompts=build_prompts(
            table, tokenizer, max_prompt_tokens=settings.sampling.max_prompt_tokens
        ),
    )


def _evaluator(settings: TrainerSettings, inputs: Inputs) -> Evaluator | None:
    if settings.evaluation is None:
        return None
    dataset = settings.dataset.model_copy(update={"uri": settings.evaluation.uri})
    table = _table(settings, dataset)
    return Evaluator(
        settings=settings.evaluation,
        job=settings.job,
        prompts=build_prompts(
            table, inputs.tokenizer, max_prompt_tokens=settings.sampling.max_prompt_tokens
        ),
        keys=inputs.keys,
        reward=find_reward(settings.reward, table),
        tokenizer=inputs.tokenizer,
        clock=CLOCK,
    )


def _table(settings: TrainerSettings, dataset: DatasetSettings) -> Table:
    folder = settings.run_dir / "datasets"
    return load_table(dataset, cache_dir=folder, file_roots=settings.file_roots)


def _cache_secret(settings: TrainerSettings) -> bytes:
    """The TreeCache's secret; without a cache the job's name, as keys then leave no process."""
    if settings.cache is None:
        return settings.job.encode()
    return read_cache_secret("cache.secret_file", settings.cache.secret_file)


def stop_token_ids(tokenizer: Tokenizer, model: Any) -> tuple[int, ...]:
    """Tokens that end a response: the tokenizer's and those of the model's generation settings."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({token for token in (tokenizer.eos_token_id, *ids) if token is not None}))


def sampling_plan(settings: TrainerSettings, stop_ids: tuple[int, ...]) -> SamplingPlan:
    """How rollouts of this job are sampled."""
    return SamplingPlan(
        max_tokens=settings.sampling.max_response_tokens,
        temperature=settings.sampling.temperature,
        top_p=settings.sampling.top_p,
        top_k=max(settings.sampling.top_k, 0),
        stop_token_ids=stop_ids,
        timeout_seconds=settings.request_timeout_seconds,
        timeout_seconds_per_token=settings.request_timeout_seconds_per_token,
        max_attempts=settings.max_rollout_attempts,
    )


def open_run(settings: TrainerSettings, *, weights_url: str | None) -> Run:
    """The run's files, new or as an earlier process left them."""
    is_bfloat16 = settings.optimizer.dtype == "bfloat16"
    sinks = open_sinks(settings.report_to, job=settings.job, run_dir=settings.run_dir)
    return Run(
        folder=settings.run_dir,
        journal=Journal(settings.run_dir / "journal"),
        checkpoints=Checkpoints(
            settings.storage.checkpoints_dir, keep=settings.storage.keep_checkpoints
        ),
        checkpoint_every_steps=settings.storage.checkpoint_every_steps,
        weights=WeightsFolder(
            settings.storage.weights_dir,
            dtype=torch.bfloat16 if is_bfloat16 else torch.float32,
            base_url=weights_url,
        ),
        reporter=Reporter(settings.run_dir / "metrics.jsonl", sinks),
    )


@asynccontextmanager
async def serve_weights(settings: TrainerSettings, serving: ServingSettings) -> AsyncIterator[None]:
    """While the block runs, if engines fetch weights. Raises ConfigurationError."""
    if serving.weights_url is None or settings.token_file is None:
        yield
        return
    server = WeightsServer(
        settings.storage.weights_dir,
        BearerToken(settings.token_file),
        host=serving.weights_host,
        port=serving.weights_port,
    )
    async with server:
        yield


async def engine_clients(
    settings: TrainerSettings, http: httpx.AsyncClient
) -> AsyncIterator[Sequence[EngineClient]]:
    """The engines as they are now, again and again."""
    source = listed(settings.engines)
    if settings.engine_service is not None:
        source = behind_service(settings.engine_service)
    async for endpoints in source:
        yield [
            EngineClient(endpoint, http, timeout_seconds=settings.request_timeout_seconds)
            for endpoint in endpoints
        ]


@asynccontextmanager
async def open_engines(settings: TrainerSettings, sampling: SamplingPlan) -> AsyncIterator[Engines]:
    """Connections to the engines and to the coordination server, closed in the end."""
    token = None
    if settings.token_file is not None:
        token = read_secret("token_file", settings.token_file).decode()
    instruments = RolloutInstruments.of(metrics.get_meter("srt_trainer"))
    board = None
    if settings.coordination_url is not None:
        board = Coordination.from_url(settings.coordination_url, job=settings.job)
    async with open_http(token) as http:
        pool = EnginePool(
            engine_clients(settings, http),
            max_in_flight=settings.max_concurrent_rollouts,
            max_load_attempts=settings.max_rollout_attempts,
        )
        announcer = Announcer(board, num_pending=lambda: pool.num_pending, clock=CLOCK)
        async with announcer, pool:
            client = RolloutClient(
                pool, SingleTurn(), sampling, instruments=instruments, clock=CLOCK
            )
            yield Engines(pool=pool, client=client, announcer=announcer, instruments=instruments)
    if board is not None:
        await board.close()
