"""``trainer.json``: defaults, bounds, and one sentence for each fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from srt_common.errors import ConfigurationError
from srt_trainer.settings import load_settings, parse_settings
from support.trainer_jobs import job_document


def with_value(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    *parents, last = path.split(".")
    inner = document
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return document


def faults_of(document: object) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(document)
    return caught.value.faults


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "trainer.json"
    path.write_text(json.dumps(job_document(tmp_path)))
    settings = load_settings(path)
    assert settings.algorithm.grpo.epsilon == 0.2
    assert settings.look_ahead_steps == 2
    assert settings.model.trust_remote_code is False


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("sampling.temperature", 0, "sampling.temperature is 0: Input should be greater than 0"),
        ("algorithm.rollouts_per_prompt", 1, "algorithm.rollouts_per_prompt is 1: "),
        ("algorithm.type", "PPO", "algorithm.type is 'PPO': Input should be 'GRPO'"),
        ("algorithm.grpo.epsilom", 0.2, "algorithm.grpo.epsilom is 0.2; no such field is allowed"),
        ("job", "Tiny Math", "job is 'Tiny Math': "),
        ("reward", "length", "reward is 'length': allowed are reasoning-gym, exact-match and "),
        ("engines", [], "engines is []; at least one is required"),
        (
            "optimizer.max_tokens_per_micro_batch",
            100,
            "optimizer.max_tokens_per_micro_batch is 100; allowed is 152 (one rollout) or more",
        ),
        (
            "engines",
            [{"name": "a", "url": "http://h:1"}] * 2,
            "engines have the names ['a', 'a']; each name is allowed once",
        ),
        ("engines", [{"name": "a", "url": "http://h:1/path"}], "engines.0.url is 'http://h:1/pa"),
        ("engine_service", "http://rollout", "engine_service is 'http://rollout': "),
        (
            "engine_service",
            "http://rollout:8000",
            "engines and engine_service are both given; allowed is one of them",
        ),
    ],
)
def test_a_fault_names_the_field_the_value_and_what_is_allowed(
    tmp_path: Path, path: str, value: object, sentence: str
) -> None:
    (fault,) = faults_of(with_value(job_document(tmp_path), path, value))
    assert fault.startswith(sentence)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    document = job_document(tmp_path)
    del document["model"], document["sampling"]["max_prompt_tokens"]
    document["look_ahead_steps"] = -1
    assert [fault.split(" ")[0] for fault in faults_of(document)] == [
        "model",
        "sampling.max_prompt_tokens",
        "look_ahead_steps",
    ]
    assert faults_of(document)[0] == "model is missing; it is required"


def test_what_is_no_object_is_refused() -> None:
    (fault,) = faults_of([1])
    assert fault.startswith("trainer.json is not an object")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_settings(tmp_path / "absent.json")
    (tmp_path / "trainer.json").write_text("{")
    with pytest.raises(ConfigurationError, match="is not JSON"):
        load_settings(tmp_path / "trainer.json")


def test_the_model_can_be_imported_without_torch() -> None:
    code = "import sys, srt_trainer.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_service_takes_the_place_of_a_list_of_engines(tmp_path: Path) -> None:
    document = job_document(tmp_path, engine_service="http://tiny-rollout.default.svc:8000")
    del document["engines"]
    assert parse_settings(document).engines == ()
