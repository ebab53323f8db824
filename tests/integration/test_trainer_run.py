"""A whole job against engines that sample from the real weights, over HTTP.

Covers: numbers of the run, weights and versions (promise 7's "counted once"), engine trouble,
phases and the look-ahead window, linked traces without texts (promise 9). Crashes:
test_trainer_crash.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from srt_common.coordination import Coordination, PhaseReport, WindowPrompt
from srt_common.keys import prompt_key, tokenizer_fingerprint
from srt_trainer import loop, rollout_client
from srt_trainer.assembly import train
from srt_trainer.serving import ServingSettings
from support.otel import RecordedTelemetry
from support.redis_server import RedisServer
from support.sampling_engine import SamplingEngine
from support.tiny_model import make_tiny_model
from support.trainer_jobs import job_settings

pytestmark = pytest.mark.timeout(120)

NUM_STEPS = 4
EVALUATION = {
    "uri": "reasoning-gym://chain_sum?seed=2&size=4&max_digits=1",
    "every_steps": 2,
    "samples": 6,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tiny_model(tmp_path / "model")
    return tmp_path


@asynccontextmanager
async def engines_of(folder: Path, number: int = 2) -> AsyncIterator[list[SamplingEngine]]:
    engines = [
        SamplingEngine(f"engine-{n}", model=folder / "model", weights_root=folder / "weights")
        for n in range(number)
    ]
    async with engines[0], engines[-1]:
        yield engines


async def run(folder: Path, engines: list[SamplingEngine], **fields: Any) -> list[dict[str, Any]]:
    """Train to the end; the lines of ``metrics.jsonl``."""
    endpoints = [{"name": engine.name, "url": engine.url} for engine in engines]
    defaults = {"reward": "support.rewards:digits", "evaluation": EVALUATION}
    settings = job_settings(folder, engines=endpoints, **{**defaults, **fields})
    await train(settings, ServingSettings())
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def sampled(engines: list[SamplingEngine]) -> Counter[tuple[str, int]]:
    return Counter(entry for engine in engines for entry in engine.completed)


async def test_a_job_learns_from_every_rollout_once_with_the_version_that_sampled_it(
    folder: Path,
) -> None:
    async with engines_of(folder) as engines:
        lines = await run(folder, engines)
    steps = [line for line in lines if line["kind"] == "step"]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    assert [line["step"] for line in steps] == list(range(NUM_STEPS))
    assert [line["step"] for line in evaluations] == [0, 2, 4]
    assert all(line["sampler_log_prob_difference_max"] < 1e-4 for line in steps)
    assert all(line["num_rollouts"] == 8 for line in steps)
    assert all(line["grad_norm"] > 0 for line in steps)
    assert set(sampled(engines).values()) == {1}
    versions = Counter(
        version for rollout_id, version in sampled(engines) if "/eval/" not in rollout_id
    )
    assert versions == dict.fromkeys(range(NUM_STEPS), 8)
    for engine in engines:
        assert engine.loaded == [1, 2, 3, 4]
        assert engine.most_in_flight <= 4


async def test_the_result_is_the_trained_policy_and_a_summary(folder: Path) -> None:
    async with engines_of(folder) as engines:
        lines = await run(folder, engines)
        final = (folder / "run/final/model.safetensors").read_bytes()
        assert final == (folder / "weights/policy-000004/model.safetensors").read_bytes()
    summary = json.loads((folder / "run/trainer_summary.json").read_text())
    assert summary["steps"] == summary["policy_version"] == NUM_STEPS
    assert summary["num_rollouts"] == 32
    assert summary["eval_samples"] == 6
    tokens = sum(line["num_generated_tokens"] for line in lines if line["kind"] == "step")
    assert summary["num_generated_tokens"] == tokens
    assert not list((folder / "run/journal").iterdir())


async def test_a_finished_job_started_again_samples_nothing(folder: Path) -> None:
    async with engines_of(folder) as engines:
        lines = await run(folder, engines)
        before = sampled(engines)
        assert await run(folder, engines) == lines
        assert sampled(engines) == before


async def test_engine_trouble_changes_neither_what_is_learnt_nor_how_much(folder: Path) -> None:
    """Busy and failing answers, aborts halfway, a restart that loses the weights."""
    async with engines_of(folder) as engines:
        first, second = engines
        first.statuses = [503, 429, 500]
        second.abort_after = [3, 5, 2, 7, 1]
        restarts: list[int] = []

        def restart_once(request: dict[str, Any]) -> None:
            version = request["sampling_params"]["extra_args"].get("srt_policy_version", 0)
            if version == 2 and not restarts:
                restarts.append(first.policy_version)
                first.forget_weights()

        first.on_request = restart_once
        lines = await run(folder, engines)
    assert restarts == [2]
    assert first.loaded[1:4] == [2, 2, 3]
    stale = sum(sampled(engines).values()) - 32 - 3 * 6
    assert stale > 0  # the restarted engine answered, with weights nobody wanted
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["num_rollouts"] for line in steps] == [8] * NUM_STEPS
    assert all(line["sampler_log_prob_difference_max"] < 1e-4 for line in steps)
    retries = sum(line.get("num_retries", line.get("eval_num_retries", 0)) for line in lines)
    assert retries >= 9


async def test_trouble_does_not_change_the_final_weights(folder: Path, tmp_path: Path) -> None:
    """The engines sample the same rollouts, so the same policy must come out."""
    results = []
    for number, statuses in enumerate(([], [503] * 5)):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "model").symlink_to(folder / "model")
        async with engines_of(place) as engines:
            engines[0].statuses = statuses
            await run(place, engines, evaluation=None)
        results.append((place / "run/final/model.safetensors").read_bytes())
    assert results[0] == results[1]


async def test_phases_and_window_are_published_and_a_server_that_dies_stops_nothing(
    folder: Path,
) -> None:
    secret = folder / "secret"
    secret.write_bytes(b"cache secret\n")
    with RedisServer.started() as server:
        async with engines_of(folder) as engines, board_watched(server, until_step=2) as seen:
            engines[0].delay_seconds = engines[1].delay_seconds = 0.05
            cache = {"secret_file": str(secret)}
            lines = await run(folder, engines, coordination_url=server.url, cache=cache)
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(NUM_STEPS))
    assert {"rollout", "eval"} <= {report.phase for report, _ in seen}
    window = next(
        window for report, window in seen if (report.step, report.phase) == (1, "rollout")
    )
    assert {prompt.step for prompt in window} == {1, 2, 3}
    keys = {prompt.prompt_key for prompt in window if prompt.step == 1}
    assert len(keys) == 2
    prompts = [request["token_ids"] for engine in engines for request in engine.requests]
    fingerprint = tokenizer_fingerprint((folder / "model/tokenizer.json").read_bytes())
    assert keys <= {prompt_key(b"cache secret", fingerprint, token_ids=ids) for ids in prompts}


@asynccontextmanager
async def board_watched(
    server: RedisServer, *, until_step: int
) -> AsyncIterator[list[tuple[PhaseReport, list[WindowPrompt]]]]:
    """What the coordination server shows over time, until a step at which it is killed."""
    seen: list[tuple[PhaseReport, list[WindowPrompt]]] = []
    board = Coordination.from_url(server.url, job="tiny")

    async def watch() -> None:
        while True:
            if (report := await board.phase()) is not None:
                seen.append((report, await board.window()))
                if report.step >= until_step:
                    server.stop()
                    return
            await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        yield seen
    await board.close()


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> RecordedTelemetry:
    recorded = RecordedTelemetry()
    for module in (loop, rollout_client):
        monkeypatch.setattr(module, "_TRACER", recorded.tracer)
    return recorded


async def test_each_rollout_is_a_trace_linked_to_its_step_and_reaches_the_engine(
    folder: Path, telemetry: RecordedTelemetry
) -> None:
    async with engines_of(folder) as engines:
        await run(folder, engines, evaluation=None)
    steps = {span.context.span_id for span in telemetry.spans("srt.step")}
    batches = {span.context.span_id for span in telemetry.spans("rollout.batch")}
    rollouts = telemetry.spans("rollout.generate")
    assert (len(steps), len(batches), len(rollouts)) == (NUM_STEPS, NUM_STEPS, 32)
    for name in ("rollout.batch", "reward", "train", "weight_sync"):
        parents = {span.parent.span_id for span in telemetry.spans(name) if span.parent}
        assert parents == steps
    for span in rollouts:
        assert span.parent is None
        (link,) = span.links
        assert link.context.span_id in batches
        assert span.attributes is not None
        assert span.attributes["srt.draft.tokens"] == 4
    sent = {
        headers["traceparent"]
        for engine in engines
        for headers in engine.headers
        if "traceparent" in headers
    }
    inside = {
        request["sampling_params"]["extra_args"]["traceparent"]
        for engine in engines
        for request in engine.requests
    }
    assert sent == inside
    trace_ids = {f"{span.context.trace_id:032x}" for span in rollouts}
    assert {traceparent.split("-")[1] for traceparent in sent} == trace_ids


async def test_no_prompt_and_no_completion_reaches_spans_or_logs(
    folder: Path, telemetry: RecordedTelemetry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="srt_trainer")
    prompts = folder / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "a secret question?", "answer": "42"}) + "\n")
    async with engines_of(folder) as engines:
        engines[0].statuses = [503]
        await run(folder, engines, dataset={"uri": f"file://{prompts}"}, evaluation=None)
    token_ids = engines[0].requests[0]["token_ids"]
    spans = telemetry.spans("rollout.generate") + telemetry.spans("srt.step")
    told = [str(span.attributes) + str(span.events) for span in spans]
    told += [str(vars(record)) for record in caplog.records]
    assert len(told) > 32
    for text in told:
        assert "secret" not in text
        assert str(token_ids[:3])[1:-1] not in text
