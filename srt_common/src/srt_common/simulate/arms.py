"""Arms by name: which drafter, on how many replicas, under which budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from srt_common.simulate.budget import Budget, CostModel, EqualBudget, FixedBudget, GovernedBudget
from srt_common.simulate.drafters import Drafter, NoDrafter, PromptLookup
from srt_common.simulate.replay import Arm, Episode, Replica, Setting, batches, exact_episodes
from srt_common.simulate.srt import Srt
from srt_common.simulate.suffix import SuffixDecoding
from srt_common.simulate.trace import Trace

SRT: Final = "srt"
SUFFIX: Final = "suffix"

_OTHERS: Final[Mapping[str, Callable[[], Drafter]]] = {
    SUFFIX: SuffixDecoding,
    "prompt-lookup": PromptLookup,
    "none": NoDrafter,
}
DRAFTERS: Final = (SRT, *_OTHERS)

DEMO_COST: Final = CostModel(c0_seconds=3e-3, c1_seconds=5e-5)
"""About the demo's model on two CPU cores."""


@dataclass(slots=True)
class Target:
    """Drafted tokens a request-step that an equal budget aims at."""

    drafted_per_step: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may choose; the command line says what each means."""

    drafters: Sequence[str] = (SRT,)
    max_draft_tokens: int = 16
    min_survival: float = 0.1
    has_governor: bool = False
    has_equal_drafts: bool = False
    batch_size: int = 32
    num_replicas: int = 1
    is_shared: bool = True
    publish_delay_seconds: float = 0.2
    cost: CostModel = DEMO_COST
    visits: tuple[int, int] | None = None
    seed: int = 0


def make_arm(name: str, trace: Trace, options: Options, target: Target) -> Arm:
    """An arm with empty trees."""
    setting = Setting(
        cost=options.cost,
        publish_delay_seconds=options.publish_delay_seconds,
        is_shared=options.is_shared and options.num_replicas > 1,
        first_token_counts=trace.rows is not None,
        seed=options.seed,
    )

    def make_replicas() -> list[Replica]:
        return [
            Replica(_drafter(name, trace, options, number), _budget(name, options, target))
            for number in range(1, options.num_replicas + 1)
        ]

    return Arm(name, trace, setting, make_replicas)


def order(options: Options) -> list[str]:
    """Arms in the order in which they take each batch: who is aimed at goes first."""
    return sorted(options.drafters, key=lambda name: name != SUFFIX)


def episodes(trace: Trace, options: Options) -> list[Episode]:
    """What to replay: exact visits where distributions are known, else everything once."""
    versions = trace.exact_versions
    if not versions:
        return [Episode(history=(), batches=batches(trace, options.batch_size))]
    first, last = options.visits or (len(versions) // 2, len(versions) - 1)
    return exact_episodes(trace, versions[first : last + 1])


def _drafter(name: str, trace: Trace, options: Options, number: int) -> Drafter:
    if name != SRT:
        return _OTHERS[name]()
    is_shared = options.is_shared and options.num_replicas > 1
    return Srt(trace, engine_id=number, is_shared=is_shared, seed=options.seed + number)


def _budget(name: str, options: Options, target: Target) -> Budget:
    if name == SRT and options.has_governor:
        return GovernedBudget(options.cost, max_draft_tokens=options.max_draft_tokens)
    if name == SRT and options.has_equal_drafts:
        return EqualBudget(
            lambda: target.drafted_per_step, max_draft_tokens=options.max_draft_tokens
        )
    return FixedBudget(options.max_draft_tokens, options.min_survival)
