"""What a job with ``poolRef`` gets from its pool, and what it may not ask of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from srt_operator import rules
from srt_operator.constants import Kind
from srt_operator.pools import RolloutPoolSpec, RolloutTemplate
from srt_operator.resources import JobTreeCacheSpec, RunAheadSpec, SRTJobSpec

_TEMPLATE: Final = "spec.rollout.template."
_REFERENCES: Final = frozenset({"spec.rollout.poolRef", "spec.treeCache"})


def with_pool(spec: SRTJobSpec, pool: RolloutPoolSpec) -> SRTJobSpec:
    """The pool's template, trees and slots in place of the reference."""
    template = RolloutTemplate(
        replicas=pool.replicas,
        engine=pool.engine,
        drafter=pool.drafter,
        drainSeconds=pool.drain_seconds,
        podTemplate=pool.pod_template,
    )
    run_ahead = {
        "enabled": spec.run_ahead.enabled and pool.run_ahead.enabled,
        "reserve_slots": pool.run_ahead.reserve_slots,
    }
    return spec.model_copy(
        update={
            "rollout": spec.rollout.model_copy(update={"template": template}),
            "tree_cache": JobTreeCacheSpec(cacheRef=pool.tree_cache_ref),
            "run_ahead": spec.run_ahead.model_copy(update=run_ahead),
        }
    )


def faults(spec: SRTJobSpec, name: str, pool: RolloutPoolSpec) -> list[str]:
    """Sentences on what keeps the pool called ``name`` from serving a job with a reference to it.

    A slot reservation that is the default's is taken as left out.
    """
    document = with_pool(spec, pool).model_dump(mode="python", by_alias=True)
    broken = rules.broken(Kind.SRT_JOB, {"spec": document}, skip=_REFERENCES)
    return [
        *_differences(spec, name, pool),
        *(fault.replace(_TEMPLATE, f"RolloutPool {name}: spec.") for fault in broken),
    ]


def _differences(spec: SRTJobSpec, name: str, pool: RolloutPoolSpec) -> Iterator[str]:
    if spec.model != pool.model:
        yield (
            f"spec.model.uri is {spec.model.uri!r}: allowed is {pool.model.uri!r}, "
            f"which RolloutPool {name} serves"
        )
    slots, own = spec.run_ahead.reserve_slots, pool.run_ahead.reserve_slots
    if slots not in (own, RunAheadSpec().reserve_slots):
        yield (
            f"spec.runAhead.reserveSlots is {slots}: allowed is {own}, as RolloutPool {name} has "
            "it, or to leave it out"
        )
