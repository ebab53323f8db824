"""A whole job whose engines share no folder with the trainer: weights go over HTTP.

The trainer serves them, each engine fetches them with the gateway's own code. Covers: late and
restarted engines, engines found by the name of their Service, and that nothing changes in what is
learnt.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from srt_common.bearer import BearerToken
from srt_common.errors import ConfigurationError
from srt_rollout.weights_download import WeightsDownload
from srt_trainer import engine_sources
from srt_trainer.assembly import train
from srt_trainer.serving import ServingSettings
from srt_trainer.settings import parse_settings
from support.gateway_process import free_port
from support.sampling_engine import SamplingEngine
from support.tiny_model import make_tiny_model
from support.trainer_jobs import job_document, job_settings
from support.trainer_process import exit_status, start_program

pytestmark = pytest.mark.timeout(240)

NUM_STEPS = 4


class Cluster:
    """A trainer's folder and token, and engines with folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_tiny_model(folder / "model")
        self.token_file = folder / "token"
        self.token_file.write_text("a token of the job")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def engine(self, name: str, address: tuple[str, int] = ("127.0.0.1", 0)) -> SamplingEngine:
        root = self.folder / name
        root.mkdir()
        engine = SamplingEngine(
            name, model=self.folder / "model", weights_root=root, address=address
        )
        engine.download = WeightsDownload(
            root,
            engine=name,
            prefix=self.url,
            token=BearerToken(self.token_file),
            max_bytes=10**9,
        )
        return engine

    def document(self, **fields: Any) -> dict[str, Any]:
        defaults = {"reward": "support.rewards:digits", "token_file": str(self.token_file)}
        return job_document(self.folder, **{**defaults, **fields})

    async def train(self, **fields: Any) -> bytes:
        """Every step; the weights that come out."""
        serving = ServingSettings(
            weights_url=self.url, weights_host="127.0.0.1", weights_port=self.port
        )
        await train(parse_settings(self.document(**fields)), serving)
        return (self.folder / "run/final/model.safetensors").read_bytes()

    def start_process(self, **fields: Any) -> ForkServerProcess:
        """The same as a process of its own."""
        config = self.folder / "trainer.json"
        config.write_text(json.dumps(self.document(**fields)))
        environment = {
            "SRT_TELEMETRY_DIR": str(self.folder / "telemetry"),
            "SRT_TRAINER_WEIGHTS_URL": self.url,
            "SRT_TRAINER_WEIGHTS_HOST": "127.0.0.1",
            "SRT_TRAINER_WEIGHTS_PORT": str(self.port),
        }
        return start_program(config, environment=environment, log=self.folder / "log.jsonl")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def listed(*engines: SamplingEngine) -> list[dict[str, str]]:
    return [{"name": engine.name, "url": engine.url} for engine in engines]


async def test_every_version_is_fetched_once_and_what_is_learnt_is_the_same(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with cluster.engine("engine-0") as first, cluster.engine("engine-1") as second:
        fetched = await cluster.train(engines=listed(first, second))
    for engine in (first, second):
        assert engine.loaded == list(range(NUM_STEPS + 1))
        (kept,) = (cluster.folder / engine.name).iterdir()
        assert kept.name.startswith(f"policy-{NUM_STEPS:06d}-")
        assert (kept / "model.safetensors").read_bytes() == fetched
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "model").symlink_to(cluster.folder / "model")
    engine = SamplingEngine("engine", model=shared / "model", weights_root=shared / "weights")
    async with engine:
        settings = job_settings(shared, reward="support.rewards:digits", engines=listed(engine))
        await train(settings, ServingSettings())
    assert (shared / "run/final/model.safetensors").read_bytes() == fetched


async def test_an_engine_that_restarts_samples_only_with_the_weights_it_fetched_again(
    cluster: Cluster,
) -> None:
    async with cluster.engine("engine-0") as engine:
        restarts: list[int] = []

        def restart_once(request: dict[str, Any]) -> None:
            if engine.policy_version == 2 and not restarts:
                restarts.append(2)
                engine.forget_weights()
                engine.statuses = [503]

        engine.on_request = restart_once
        await cluster.train(engines=listed(engine))
    assert restarts == [2]
    assert engine.loaded == [0, 1, 2, 2, 3, 4]


async def test_engines_of_a_service_may_come_and_go_while_the_job_runs(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes in step 1, the first goes in step 2: all that is left is on the second."""
    port = free_port()
    first = cluster.engine("rollout-0", ("127.0.0.2", port))
    second = cluster.engine("rollout-1", ("127.0.0.3", port))
    addresses = ["127.0.0.2"]
    resolve_as(monkeypatch, {"tiny-rollout": addresses})
    leaves = asyncio.Event()

    def watch(request: dict[str, Any]) -> None:
        version = request["sampling_params"]["extra_args"]["srt_policy_version"]
        if version == 1 and len(addresses) == 1:
            addresses.append("127.0.0.3")
        if version == 2 and second.completed:
            leaves.set()

    async def leave(stack: AsyncExitStack) -> None:
        await leaves.wait()
        addresses.remove("127.0.0.2")
        await stack.aclose()

    first.on_request = watch
    first.delay_seconds = second.delay_seconds = 0.5  # the second has the weights by then
    async with second, AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        await stack.enter_async_context(first)
        leaving = tasks.create_task(leave(stack))
        await cluster.train(engines=(), engine_service=f"http://tiny-rollout:{port}")
        leaving.cancel()
    assert leaves.is_set()
    assert first.loaded == [0, 1, 2]
    assert second.loaded == [1, 2, 3, 4]
    lines = (cluster.folder / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["num_rollouts"] for line in lines] == [8] * NUM_STEPS
    for line in lines:
        assert json.loads(line)["sampler_log_prob_difference_max"] < 1e-4


def resolve_as(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, Sequence[str]]) -> None:
    """Have the running loop resolve these names."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
        if host not in names:
            return await real(host, port, **options)
        return [(0, 0, 0, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(engine_sources, "REFRESH_SECONDS", 0.02)


@pytest.mark.processes
async def test_a_trainer_that_is_killed_serves_again_where_it_was(cluster: Cluster) -> None:
    async with cluster.engine("engine-0") as engine:
        process = cluster.start_process(engines=listed(engine))

        def kill(request: dict[str, Any]) -> None:
            if "/2/" in request["sampling_params"]["extra_args"]["srt_rollout_id"]:
                engine.on_request = lambda _: None
                process.kill()

        engine.on_request = kill
        assert await exit_status(process) == -signal.SIGKILL
        assert engine.loaded == [0, 1, 2]
        engine.forget_weights()
        assert await exit_status(cluster.start_process(engines=listed(engine))) == 0
    assert engine.loaded == [0, 1, 2, 2, 3, 4]
    lines = (cluster.folder / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(NUM_STEPS))


async def test_weights_are_never_served_without_a_token(cluster: Cluster) -> None:
    with pytest.raises(ConfigurationError, match="token_file is missing; it is required with"):
        await cluster.train(token_file=None)
