"""docker-compose.yml gives every service what the operator would give it for tiny-math, no more.

The builders that `srt run` uses say what a process needs; the file must say the same.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from srt_operator.job_file import load_job
from srt_operator.manifests.build import local_process
from srt_operator.manifests.process import LocalSite, serving
from srt_operator.processes import Component, Member, members
from srt_operator.static_run import StaticSettings, given_site
from support.compose import Compose

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[2]
JOB = load_job((ROOT / "docs" / "examples" / "tiny-math" / "job.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if "observability" not in one["profiles"]}

ON_CPU_ONLY = {"SRT_ROLLOUT_ENFORCE_EAGER", "SRT_ROLLOUT_NUM_THREADS"}


def site() -> LocalSite:
    """What the compose file gives the operator; its images hold the examples where the job says."""
    given = SERVICES["operator"]["environment"]
    settings = StaticSettings(
        job_file=Path(given["SRT_STATIC_JOB_FILE"]),
        run_dir=Path(given["SRT_STATIC_RUN_DIR"]),
        endpoints=json.loads(given["SRT_STATIC_ENDPOINTS"]),
        redis_url=given["SRT_STATIC_REDIS_URL"],
    )
    return dataclasses.replace(
        given_site(JOB, settings),
        num_engine_threads=1,
        model=Path(JOB.spec.model.uri.removeprefix("file://")),
        scratch=Path("/tmp"),
    )


def told(service: dict[str, Any]) -> dict[str, str]:
    """Environment of a service, but for where telemetry goes: whoever starts it decides."""
    environment: dict[str, str] = service["environment"]
    return {k: v for k, v in environment.items() if k != "OTEL_EXPORTER_OTLP_ENDPOINT"}


def watched() -> list[Member]:
    return [member for member in members(JOB.spec) if member.component is not Component.SERVER]


@pytest.mark.parametrize("member", watched(), ids=lambda member: member.name)
def test_a_service_runs_what_the_operator_would_run(member: Member) -> None:
    process = local_process(JOB, site(), member)
    service = SERVICES[member.name]
    assert ["python", *process.command[1:]] == service["command"]
    assert told(service) == process.environment


@pytest.mark.parametrize("name", ["rollout-0", "rollout-1"])
def test_an_engine_on_a_gpu_has_the_same_settings(name: str) -> None:
    cpu, gpu = SERVICES[name], SERVICES[f"{name}-gpu"]
    left = {key: value for key, value in cpu["environment"].items() if key not in ON_CPU_ONLY}
    assert gpu["environment"] == left
    assert gpu["networks"] == {"data": {"aliases": [name]}}


def test_every_process_of_the_job_has_a_service_and_an_address() -> None:
    names = {member.name for member in members(JOB.spec)} - {"server"} | {"redis", "operator"}
    on_cpu = {name for name, one in OURS.items() if "cpu" in one["profiles"]}
    assert on_cpu == names
    assert {member.name for member in serving(JOB)} == site().endpoints.keys()


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_is_locked_up(name: str) -> None:
    service = OURS[name]
    assert service["user"] == "65532:65532"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in service
    assert "data" in service["networks"]


def test_the_data_network_has_no_way_out_and_published_ports_are_this_machine_only() -> None:
    assert COMPOSE["networks"]["data"] == {"internal": True}
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_everything_that_serves_is_waited_for_until_it_does() -> None:
    for name, service in OURS.items():
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy", name
            assert "healthcheck" in SERVICES[needed], needed
            assert set(service["profiles"]) <= set(SERVICES[needed]["profiles"]), (name, needed)


def test_images_are_those_of_the_chart() -> None:
    chart = yaml.safe_load((ROOT / "charts" / "srt" / "Chart.yaml").read_text())
    for name, service in OURS.items():
        image = service["image"].removeprefix("${SRT_REGISTRY:-}")
        tag = f"${{SRT_TAG:-{chart['appVersion']}}}"
        assert image.split(":", 1)[1].removesuffix("-gpu") == tag, name
        assert image.endswith("-gpu") == name.endswith("-gpu"), name


@pytest.mark.parametrize("profiles", ["cpu", "gpu", "cpu,observability", "gpu,observability"])
def test_compose_itself_takes_every_profile(profiles: str) -> None:
    Compose(profiles).run("config", "--quiet")
