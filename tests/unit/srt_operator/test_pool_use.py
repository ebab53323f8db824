"""A job with a pool of somebody's is checked as one with a template of its own."""

from __future__ import annotations

from typing import Any

import pytest

from srt_operator import pool_use
from srt_operator.pools import RolloutPool, RolloutPoolSpec
from srt_operator.resources import SRTJob, SRTJobSpec
from support.bad_resources import SOUND, changed


def job(path: str = "spec.suspend", value: Any = False) -> SRTJobSpec:
    document = changed(SOUND["SRTJob"], "spec.rollout", {"poolRef": {"name": "engines"}})
    for left_out in ("spec.treeCache", "spec.runAhead.reserveSlots"):
        document = changed(document, left_out, None)
    document = changed(document, "spec.model.uri", "pvc://models/tiny")
    return SRTJob.model_validate(changed(document, path, value)).spec


def pool(path: str = "spec.replicas", value: Any = 2) -> RolloutPoolSpec:
    return RolloutPool.model_validate(changed(SOUND["RolloutPool"], path, value)).spec


def test_a_job_gets_engines_trees_and_slots_from_its_pool() -> None:
    assert pool_use.faults(job(), "engines", pool()) == []
    got = pool_use.with_pool(job(), pool())
    assert (got.rollout.pool.replicas, got.rollout.pool.engine.max_num_seqs) == (2, 8)
    assert got.tree_cache.cache_ref is not None
    assert got.tree_cache.cache_ref.name == "trees"
    assert got.run_ahead.reserve_slots == 2


def test_run_ahead_needs_the_pools_workers() -> None:
    without = pool("spec.runAhead.enabled", False)
    assert pool_use.with_pool(job(), without).run_ahead.enabled is False
    off = job("spec.runAhead.enabled", False)
    assert pool_use.with_pool(off, pool()).run_ahead.enabled is False


@pytest.mark.parametrize(
    ("spec", "served", "sentence"),
    [
        (
            job(),
            pool("spec.engine.maxModelLen", 64),
            "RolloutPool engines: spec.engine.maxModelLen is 64: allowed is maxPromptTokens + "
            "maxResponseTokens (32 + 96) or more",
        ),
        (
            job("spec.model.uri", "file:///models/other"),
            pool(),
            "spec.model.uri is 'file:///models/other': allowed is 'pvc://models/tiny', which "
            "RolloutPool engines serves",
        ),
        (
            job("spec.runAhead.reserveSlots", 3),
            pool(),
            "spec.runAhead.reserveSlots is 3: allowed is 2, as RolloutPool engines has it, or to "
            "leave it out",
        ),
    ],
    ids=["too short", "another model", "slots"],
)
def test_what_the_pool_cannot_do_is_a_sentence(
    spec: SRTJobSpec, served: RolloutPoolSpec, sentence: str
) -> None:
    assert pool_use.faults(spec, "engines", served) == [sentence]
