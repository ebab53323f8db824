"""What the operator hands to each process is what that process accepts: its own settings class
reads the variables, its own model reads the file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from srt_common.settings import ServiceSettings
from srt_common.telemetry.setup import TelemetrySettings
from srt_operator.job_file import load_job
from srt_operator.layout import RunLayout
from srt_operator.manifests.build import local_process
from srt_operator.manifests.process import (
    Endpoint,
    HttpReadiness,
    LocalProcess,
    LocalSite,
    ServerReadiness,
)
from srt_operator.processes import Component, Member, members
from srt_operator.resources import SRTJob
from srt_rollout.settings import RolloutSettings
from srt_rollout.vllm_plugin.settings import DrafterSettings
from srt_runahead.settings import RunaheadSettings
from srt_trainer.settings import parse_settings
from srt_tree_cache.settings import TreeCacheSettings
from support.jobs import make_job

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
Settings = TypeVar("Settings", bound=ServiceSettings)

SITE = LocalSite(
    python="/usr/bin/python3",
    layout=RunLayout(Path("/runs/sums")),
    model=Path("/models/tiny"),
    job_id="sums",
    job_name="sums",
    cache_id="sums",
    endpoints={
        "tree-cache-0": Endpoint("127.0.0.1", 8100),
        "rollout-0": Endpoint("127.0.0.1", 8000),
        "rollout-1": Endpoint("127.0.0.1", 8001),
    },
    telemetry=Path("/runs/sums/telemetry"),
    cache_token=Path("/runs/sums/private/token"),
    server_command=("valkey-server", "--port", "0"),
    server_url="unix:///runs/sums/private/redis.sock",
    broker_url="redis+socket:///runs/sums/private/redis.sock",
    scratch=Path("/scratch"),
    num_engine_threads=1,
)


def process(name: str, job: SRTJob, site: LocalSite = SITE) -> LocalProcess:
    [member] = [member for member in members(job.spec) if member.name == name]
    return local_process(job, site, member)


@pytest.mark.parametrize("member", members(make_job().spec), ids=lambda member: member.name)
def test_every_process_says_what_it_records(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = local_process(make_job(spec__telemetry__traceSampleRatio=0.5), SITE, member)
    if member.component is Component.SERVER:
        assert what.environment == {}
        return
    read = settings_of(TelemetrySettings, what, monkeypatch)
    assert read.dir == Path("/runs/sums/telemetry")
    assert (read.job_name, read.trace_sample_ratio) == ("sums", 0.5)


def test_engines_may_sample_in_another_precision_than_the_trainer_learns_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = make_job(spec__rollout__template__engine__dtype="bfloat16")
    assert job.spec.optimizer.dtype == "float32"
    assert settings_of(RolloutSettings, process("rollout-0", job), monkeypatch).dtype == "bfloat16"


def test_a_rollout_pod_gets_what_the_job_says(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(
        spec__rollout__template__engine__kvCacheMemory="64Mi",
        spec__rollout__template__engine__extraArgs='["--block-size=32"]',
        spec__optimizer__dtype="bfloat16",
        spec__rollout__template__drafter__maxDraftTokens=9,
    )
    what = process("rollout-1", job)
    read = settings_of(RolloutSettings, what, monkeypatch)
    assert (read.engine_name, read.port) == ("rollout-1", 8001)
    assert read.model == Path("/models/tiny")
    assert (read.max_num_seqs, read.reserve_slots, read.max_model_len) == (8, 2, 128)
    assert (read.dtype, read.max_draft_tokens) == ("bfloat16", 9)
    assert read.kv_cache_memory_bytes == 64 * 2**20
    assert read.extra_args == ("--block-size=32",)
    assert read.drafter_enabled
    assert read.tree_cache_url == "http://127.0.0.1:8100"
    assert read.weights_root == Path("/runs/sums/weights")
    assert what.readiness == HttpReadiness("http://127.0.0.1:8001/readyz")
    assert what.grace_seconds > read.drain_seconds + read.stop_seconds


def test_a_drafter_shares_the_jobs_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(spec__rollout__template__drafter__maxTreeBytes="32Mi")
    read = settings_of(DrafterSettings, process("rollout-0", job), monkeypatch)
    assert read.cache_url == SITE.server_url
    assert (read.cache_id, read.num_shards) == ("sums", 16)
    assert (read.max_tree_bytes, read.min_survival) == (32 * 2**20, None)


def test_a_stock_engine_knows_nothing_of_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(
        spec__rollout__template__drafter__enabled="false", spec__runAhead__enabled="false"
    )
    what = process("rollout-0", job)
    read = settings_of(RolloutSettings, what, monkeypatch)
    assert not read.drafter_enabled
    assert (read.reserve_slots, read.tree_cache_url) == (0, None)
    assert not any(name.startswith("SRT_DRAFTER_") for name in what.environment)


def test_an_engine_on_an_accelerator_compiles_and_takes_its_own_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    what = process("rollout-0", make_job(), replace(SITE, num_engine_threads=None))
    read = settings_of(RolloutSettings, what, monkeypatch)
    assert (read.num_threads, read.enforce_eager) == (None, False)


def test_a_tree_cache_gets_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(
        spec__treeCache__template__retention__maxBytes="64Mi",
        spec__treeCache__template__retention__rolloutsPerPrompt=7,
    )
    read = settings_of(TreeCacheSettings, process("tree-cache-0", job), monkeypatch)
    assert (read.cache_id, read.num_shards, read.port) == ("sums", 16, 8100)
    assert (read.memory_limit_bytes, read.rollouts_per_prompt) == (64 * 2**20, 7)
    assert read.redis_url.get_secret_value() == SITE.server_url


def test_a_run_ahead_worker_stands_beside_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings_of(RunaheadSettings, process("runahead-1", make_job()), monkeypatch)
    assert (read.job, read.engine_name) == ("sums", "rollout-1")
    assert read.gateway_url == "http://127.0.0.1:8001"
    assert read.concurrency == 8 - 2
    assert read.broker_url.get_secret_value() == SITE.broker_url
    assert read.coordination_url.get_secret_value() == SITE.server_url


def test_the_trainers_file_is_what_the_trainer_reads() -> None:
    job = make_job(
        spec__evaluation="{uri: 'reasoning-gym://chain_sum?seed=9&size=4', samples: 8}",
        spec__algorithm__grpo="{epsilonHigh: 0.28, scaleRewards: batch}",
        spec__telemetry__reportTo="[tensorboard]",
    )
    what = process("trainer", job)
    [(path, text)] = what.files.items()
    assert what.command[-2:] == ("--config", str(path))
    read = parse_settings(json.loads(text))
    assert read.run_dir == Path("/runs/sums")
    assert read.algorithm.grpo.epsilon_high == 0.28
    assert read.algorithm.grpo.scale_rewards == "batch"
    assert read.evaluation is not None
    assert read.evaluation.samples == 8
    assert [engine.name for engine in read.engines] == ["rollout-0", "rollout-1"]
    assert read.max_concurrent_rollouts == 8
    assert read.cache is not None
    assert read.report_to == ("tensorboard",)


def test_a_trainer_of_stock_engines_publishes_no_window() -> None:
    job = make_job(spec__rollout__template__drafter__enabled="false")
    [text] = process("trainer", job).files.values()
    assert parse_settings(json.loads(text)).cache is None


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("tiny-*/*.yaml")), ids=lambda path: path.name)
def test_every_example_makes_settings_that_all_processes_accept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_job(path.read_text())
    site = replace(
        SITE, endpoints={member.name: Endpoint("127.0.0.1", 8000) for member in members(job.spec)}
    )
    kinds: dict[Component, type[ServiceSettings]] = {
        Component.TREE_CACHE: TreeCacheSettings,
        Component.ROLLOUT: RolloutSettings,
        Component.RUN_AHEAD: RunaheadSettings,
    }
    for member in members(job.spec):
        what = local_process(job, site, member)
        if member.component in kinds:
            settings_of(kinds[member.component], what, monkeypatch)
        elif member.component is Component.TRAINER:
            [text] = what.files.values()
            parse_settings(json.loads(text))


def test_the_server_is_private_and_asked_over_its_socket() -> None:
    what = process("server", make_job())
    assert what.command == SITE.server_command
    assert what.readiness == ServerReadiness(Path("/runs/sums/private/redis.sock"))


@pytest.mark.parametrize("member", members(make_job().spec), ids=lambda member: member.name)
def test_no_secret_is_on_a_command_line_or_in_a_variable(member: Member) -> None:
    what = local_process(make_job(), SITE, member)
    words = [*what.command, *what.environment.values()]
    files = (SITE.layout.token, SITE.layout.cache_secret)
    assert not any("Bearer" in word for word in words)
    assert all(path.parent == SITE.layout.private for path in files)
    assert all(path.parent == SITE.layout.private for path in what.files)


def settings_of(
    kind: type[Settings], what: LocalProcess, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """What the process itself would read; a variable it does not know would end it."""
    for name, value in what.environment.items():
        monkeypatch.setenv(name, value)
    return kind.from_environment()
