"""A user's job file: every fault at once, each naming field, value and what is allowed; what is
right is read back equal.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_common.errors import ConfigurationError
from srt_operator.job_file import MAX_JOB_BYTES, dump_job, load_job
from support.jobs import JOB

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def faults(text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load_job(text, overrides=overrides)
    return caught.value.faults


def test_a_job_is_read_with_its_defaults() -> None:
    job = load_job(JOB)
    assert job.spec.algorithm.grpo.loss_type == "dapo"
    assert job.spec.rollout.pool.drafter.max_draft_tokens == 16
    assert job.spec.tree_cache.cache.retention.max_bytes == 2**30


def test_what_is_dumped_is_read_back_equal() -> None:
    job = load_job(JOB, overrides=["spec.treeCache.template.retention.maxBytes=256Mi"])
    assert "maxBytes: 256Mi" in dump_job(job)
    assert load_job(dump_job(job)) == job


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*job*.yaml")), ids=lambda path: path.name)
def test_every_example_is_a_valid_job(path: Path) -> None:
    job = load_job(path.read_text())
    assert load_job(dump_job(job)) == job


def test_all_faults_come_at_once() -> None:
    found = faults(
        JOB.replace("GRPO", "PPO").replace("name: sums", "name: Sums"),
        "spec.algorithm.steps=0",
        "spec.algorithm.stepz=3",
        "spec.sampling.temperature=hot",
        "spec.runAhead.reserveSlots=8",
        "spec.trainer.procPerNode=2",
    )
    assert found == (
        "metadata.name is 'Sums': allowed is 1 to 40 lower-case letters, digits and dashes, "
        "no dash at an end",
        "spec.sampling.temperature is 'hot': allowed is a number above 0 to 10",
        "spec.algorithm.type is 'PPO': allowed is GRPO",
        "spec.algorithm.steps is 0: allowed is a whole number from 1 to 1000000",
        "spec.algorithm.stepz is not a field: did you mean steps?",
        "spec.trainer.procPerNode is 2: allowed is 1 (more are not built yet)",
        "spec.runAhead.reserveSlots is 8: allowed is less than the engine's maxNumSeqs (8)",
    )


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        (
            "spec.model.uri=http://x/y",
            "spec.model.uri is 'http://x/y': allowed is file://PATH, pvc://CLAIM/PATH or "
            "hf://ORGANISATION/NAME",
        ),
        (
            "spec.rollout.template.engine.maxModelLen=100",
            "spec.rollout.template.engine.maxModelLen is 100: allowed is "
            "maxPromptTokens + maxResponseTokens (32 + 96) or more",
        ),
        (
            "spec.optimizer.maxTokensPerMicroBatch=100",
            "spec.optimizer.maxTokensPerMicroBatch is 100: allowed is "
            "maxPromptTokens + maxResponseTokens (32 + 96) or more",
        ),
        (
            "spec.algorithm.rolloutsPerPrompt=1",
            "spec.algorithm.rolloutsPerPrompt is 1: allowed is 2 or more with GRPO, "
            "which compares the rollouts of a group",
        ),
        (
            "spec.algorithm.grpo.epsilonHigh=0.1",
            "spec.algorithm.grpo.epsilonHigh is 0.1: allowed is 0.2 (epsilon) or more",
        ),
        (
            "spec.runAhead.bubble.openBelow=0.9",
            "spec.runAhead.bubble.openBelow is 0.9: allowed is less than closeAbove (0.85)",
        ),
        (
            "spec.runAhead.bubble.sources=[TrainerPhase, NVML]",
            "spec.runAhead.bubble.sources: allowed is a list with TrainerPhase and EngineLoad, "
            "which decide; NVML and Prometheus may join them",
        ),
        (
            "spec.treeCache.template.retention.maxBytes=1Mx",
            "spec.treeCache.template.retention.maxBytes is '1Mx': allowed is bytes as a whole "
            "number, or with a suffix such as 256Mi or 2G, 1,048,576 bytes or more",
        ),
        (
            "spec.telemetry.reportTo=[tensorbord]",
            "spec.telemetry.reportTo.0 is 'tensorbord': allowed is a list of tensorboard or wandb",
        ),
        (
            "spec.sampling=5",
            "spec.sampling is 5: allowed is a mapping of temperature, topP, topK, "
            "maxPromptTokens, maxResponseTokens",
        ),
        ("spec.suspend=maybe", "spec.suspend is 'maybe': allowed is true or false"),
        (
            "spec.algorithm.steps='5'",
            "spec.algorithm.steps is '5': allowed is a whole number from 1 to 1000000",
        ),
        (
            "spec.rewards={}",
            "spec.rewards is not a field: did you mean reward?",
        ),
        (
            "spec.zzz=1",
            "spec.zzz is not a field: allowed are model, dataset, reward, environment, sampling, "
            "algorithm, optimizer, evaluation, storage, trainer, rollout, treeCache, runAhead, "
            "telemetry, managedBy, suspend, ttlSecondsAfterFinished, activeDeadlineSeconds, "
            "backoffLimit",
        ),
        ("spec", "--set 'spec': allowed is path=value, such as spec.algorithm.steps=20"),
        (
            "spec.suspend.x=1",
            "--set spec.suspend.x: it leads through a value that is not a mapping",
        ),
        (
            "spec.suspend=[",
            "--set spec.suspend: line 1, column 2: expected the node content, but "
            "found '<stream end>'",
        ),
    ],
)
def test_a_fault_names_field_value_and_what_is_allowed(override: str, fault: str) -> None:
    text = JOB + "  suspend: false\n"
    assert faults(text, override) == (fault,)


def test_a_missing_field_says_what_belongs_there() -> None:
    assert faults(JOB.replace('model: {uri: "file:///models/tiny"}', "model: {}")) == (
        "spec.model.uri is missing: it is required, file://PATH, pvc://CLAIM/PATH or "
        "hf://ORGANISATION/NAME",
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [1\nb: 2", "line 2, column 2: expected ',' or ']', but got ':'"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: a is given twice"),
        ("- 1", "the job is no mapping of apiVersion, kind, metadata and spec"),
        ("", "the job is no mapping of apiVersion, kind, metadata and spec"),
        ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
        (
            "x" * (MAX_JOB_BYTES + 1),
            f"the job has {MAX_JOB_BYTES + 1} characters: allowed are {MAX_JOB_BYTES}",
        ),
    ],
)
def test_what_is_no_yaml_names_its_line(text: str, fault: str) -> None:
    assert faults(text) == (fault,)


def test_a_long_value_is_cut_in_the_fault() -> None:
    [fault] = faults(JOB, f"spec.dataset.answerField={'y' * 500}")
    assert len(fault) < 200


def test_exponents_are_numbers_as_in_kubernetes() -> None:
    job = load_job(JOB, overrides=["spec.optimizer.learningRate=3e-4"])
    assert job.spec.optimizer.learning_rate == 3e-4


def test_no_tag_makes_an_object() -> None:
    [fault] = faults("a: !!python/object/apply:os.system ['true']")
    assert "could not determine a constructor" in fault


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_sentences(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_job(text)
    assert all(caught.value.faults)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["spec", "model", "uri", "algorithm", "x"]), inner)
        ),
        max_leaves=12,
    )
)
def test_any_document_is_refused_in_sentences_that_name_a_field(document: object) -> None:
    import yaml

    with pytest.raises(ConfigurationError) as caught:
        load_job(yaml.safe_dump({"spec": document}))
    assert all(" is " in fault for fault in caught.value.faults)
