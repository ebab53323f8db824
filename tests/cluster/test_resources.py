"""The custom resources on a real API server: it takes what Python takes and refuses what Python
refuses, each time with a sentence; columns, defaults, status and scale are as people expect them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from srt_operator import rules
from srt_operator.job_file import load_job
from support.bad_resources import (
    ESCAPES,
    MISTAKES,
    SOUND,
    Bad,
    Document,
    changed,
    verdict_of_python,
)
from support.cluster import CommandError, ControlPlane

ROOT = Path(__file__).parents[2]
TINY_MATH = ROOT / "docs" / "examples" / "tiny-math" / "job.yaml"
SAMPLES = sorted((ROOT / "docs" / "examples").rglob("*.yaml"))
CHANGES = {
    "spec.model": {"uri": "file:///models/other"},
    "spec.dataset": {"uri": "reasoning-gym://chain_sum?seed=2&size=8"},
    "spec.sampling": {"maxPromptTokens": 16, "maxResponseTokens": 96},
    "spec.algorithm.promptsPerStep": 3,
    "spec.algorithm.rolloutsPerPrompt": 5,
    "spec.algorithm.seed": 1,
    "spec.algorithm.steps": 2,
    "spec.treeCache.template.shards": 32,
    "spec.storage.path": "elsewhere",
    "spec.storage.claimName": "claim",
    "spec.managedBy": "kueue.x-k8s.io/multikueue",
}
"""A change of each field that a job keeps for life."""


@pytest.fixture
def server(custom_resources: ControlPlane) -> ControlPlane:
    """The API server that knows our resources."""
    return custom_resources


def verdict_of_server(server: ControlPlane, document: Document) -> str:
    """Its sentences; empty if it takes the document."""
    try:
        server.kubectl(
            "create",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
            stdin=yaml.safe_dump(document),
        )
    except CommandError as error:
        return error.stderr
    return ""


def test_definitions_are_established_and_small(server: ControlPlane) -> None:
    stored = server.get("crds")["items"]
    assert {each["spec"]["names"]["kind"] for each in stored} == set(SOUND)
    for each in stored:
        assert len(json.dumps(each)) < 100_000
        assert not [c for c in each["status"]["conditions"] if c["type"] == "NonStructuralSchema"]


@pytest.mark.parametrize("kind", SOUND)
def test_what_is_sound_is_taken_by_both(server: ControlPlane, kind: str) -> None:
    assert verdict_of_python(SOUND[kind]) == ""
    assert verdict_of_server(server, SOUND[kind]) == ""


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.parent.name + "/" + path.name)
def test_every_sample_is_taken(server: ControlPlane, path: Path) -> None:
    assert verdict_of_server(server, yaml.safe_load(path.read_text())) == ""


@pytest.mark.parametrize("bad", [*ESCAPES, *MISTAKES], ids=str)
def test_what_is_bad_is_refused_by_both_with_its_field(server: ControlPlane, bad: Bad) -> None:
    for sentence in (verdict_of_python(bad.document), verdict_of_server(server, bad.document)):
        assert bad.field in sentence, sentence[:2000]


def test_every_rule_between_fields_is_broken_by_a_case() -> None:
    sentences = "\n".join(verdict_of_python(bad.document) for bad in MISTAKES + ESCAPES)
    for rule in (rule for kind in rules.RULES.values() for rule in kind):
        known = rule.allowed.partition("{")[0].strip()
        assert known in sentences, rule.fields


@pytest.mark.parametrize(
    "path", [path for path in rules.FIXED["SRTJob"] if path in CHANGES] + ["spec.algorithm.steps"]
)
def test_what_a_job_keeps_for_life_cannot_change(server: ControlPlane, path: str) -> None:
    job = changed(SOUND["SRTJob"], "metadata.name", "for-life")
    server.apply(job)
    with pytest.raises(CommandError) as caught:
        server.apply(changed(job, path, CHANGES[path]))
    assert path in caught.value.stderr
    assert ("cannot change" in caught.value.stderr) or ("may only grow" in caught.value.stderr)


def test_steps_may_grow_while_a_job_pauses(server: ControlPlane) -> None:
    job = changed(SOUND["SRTJob"], "metadata.name", "grows")
    server.apply(job)
    with pytest.raises(CommandError, match=r"only while spec\.suspend is true"):
        server.apply(changed(job, "spec.algorithm.steps", 9))
    grown = changed(changed(job, "spec.algorithm.steps", 9), "spec.suspend", True)
    assert server.apply(grown)["spec"]["algorithm"]["steps"] == 9


def test_defaults_are_stored(server: ControlPlane) -> None:
    stored = server.apply(changed(SOUND["SRTJob"], "metadata.name", "defaults"))
    stored["metadata"] = {"name": "defaults"}
    assert load_job(yaml.safe_dump(stored)) == load_job(
        yaml.safe_dump(changed(SOUND["SRTJob"], "metadata.name", "defaults"))
    )
    assert stored["spec"]["backoffLimit"] == 3


def test_get_srt_shows_all_three_kinds_in_columns(server: ControlPlane) -> None:
    server.kubectl("apply", "-f", str(TINY_MATH))
    for kind in ("RolloutPool", "TreeCache"):
        server.apply(SOUND[kind])
    status = {
        "status": {
            "phase": "Running",
            "progress": {"step": 3, "steps": 45, "display": "3/45"},
            "cache": {"hitRate": "0.41"},
        }
    }
    server.kubectl(
        "patch",
        "srtjob/tiny-math",
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps(status),
    )
    shown = server.kubectl("get", "srt")
    for word in ("PHASE", "STEP", "HITRATE", "Running", "3/45", "0.41", "tiny-math"):
        assert word in shown, shown
    assert "rolloutpool.srt-rl.dev/engines" in shown
    assert "treecache.srt-rl.dev/trees" in shown


def test_status_and_spec_are_written_apart(server: ControlPlane) -> None:
    job = changed(SOUND["SRTJob"], "metadata.name", "apart")
    assert "status" not in server.apply(changed(job, "status.phase", "Succeeded"))
    patch = {"spec": {"suspend": True}, "status": {"phase": "Running"}}
    server.kubectl(
        "patch", "srtjob/apart", "--subresource=status", "--type=merge", "-p", json.dumps(patch)
    )
    stored = server.get("srtjob/apart")
    assert stored["spec"]["suspend"] is False
    assert stored["status"]["phase"] == "Running"


def test_a_pool_scales_but_not_below_zero(server: ControlPlane) -> None:
    server.apply(changed(SOUND["RolloutPool"], "metadata.name", "scales"))
    server.kubectl("scale", "rolloutpool/scales", "--replicas=3")
    assert server.get("rolloutpool/scales")["spec"]["replicas"] == 3
    with pytest.raises(CommandError, match="replicas"):
        server.kubectl("scale", "rolloutpool/scales", "--replicas=100000")


def test_two_managers_of_one_field_conflict_by_name(server: ControlPlane) -> None:
    job = changed(SOUND["SRTJob"], "metadata.name", "owned")
    server.apply(job, "--server-side", "--field-manager=srt-operator")
    with pytest.raises(CommandError, match='conflict with "srt-operator"'):
        server.apply(
            changed(job, "spec.algorithm.steps", 9), "--server-side", "--field-manager=someone"
        )
