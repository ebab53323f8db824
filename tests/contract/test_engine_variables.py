"""A user may set what vLLM reads of its environment, but for what the gateway decides on."""

from __future__ import annotations

from pathlib import Path

import pytest

from srt_rollout.engine import environment
from srt_rollout.settings import RolloutSettings
from support.bad_resources import SOUND, changed, verdict_of_python

TEMPLATES = {
    "SRTJob": "spec.rollout.template.podTemplate.env",
    "RolloutPool": "spec.podTemplate.env",
}
OF_THE_SITE = "OMP_NUM_THREADS"
"""Set by the gateway only where it was told how many threads there are."""


@pytest.fixture
def decided(tmp_path: Path) -> set[str]:
    """Names that the gateway sets for its engine, or keeps from it."""
    settings = RolloutSettings(
        engine_name="rollout-0",
        model=tmp_path,
        token_file=tmp_path / "token",
        max_num_seqs=8,
        max_model_len=512,
        max_draft_tokens=16,
        num_threads=1,
    )
    return set(environment(settings, metrics_folder=tmp_path))


@pytest.mark.parametrize("kind", TEMPLATES)
def test_what_the_gateway_decides_on_is_refused(kind: str, decided: set[str]) -> None:
    assert "VLLM_SERVER_DEV_MODE" in decided
    for name in decided - {OF_THE_SITE}:
        document = changed(SOUND[kind], TEMPLATES[kind], [{"name": name, "value": "1"}])
        assert f"{TEMPLATES[kind]}: allowed is names" in verdict_of_python(document), name


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("name", ["VLLM_ATTENTION_BACKEND", "VLLM_LOGGING_LEVEL", OF_THE_SITE])
def test_the_rest_of_vllms_variables_are_the_users(kind: str, name: str) -> None:
    document = changed(SOUND[kind], TEMPLATES[kind], [{"name": name, "value": "1"}])
    assert verdict_of_python(document) == ""
