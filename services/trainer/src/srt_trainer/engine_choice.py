"""Which engine samples which rollout. Pure.

* Balance first: an engine is given work only below its fair share, and as long as rollouts wait and
  an engine has a slot, the next assignment exists.
* Then affinity: the rollouts of a prompt prefer one engine, whose trees know that prompt best and
  whose
  prefix cache holds it. Rendezvous hashing: when an engine leaves, only its own prompts move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import xxhash

from srt_common.keys import PromptKey


@dataclass(frozen=True, slots=True)
class EngineSlots:
    """A ready engine's occupancy."""

    name: str
    num_in_flight: int


def affinity(key: PromptKey, engine: str) -> int:
    """How much a prompt prefers an engine; the same on every machine."""
    return xxhash.xxh3_64_intdigest(key + engine.encode())


@lru_cache(maxsize=65536)
def favourite_engine(key: PromptKey, names: tuple[str, ...]) -> str:
    """The engine a prompt prefers among ``names``."""
    return max(names, key=lambda name: affinity(key, name))


def next_assignment(
    waiting: Sequence[PromptKey],
    engines: Sequence[EngineSlots],
    *,
    num_waiting: int,
    max_in_flight: int,
) -> tuple[PromptKey, str] | None:
    """The prompt whose rollout goes next, and its engine.

    Args:
        waiting: keys of prompts with waiting rollouts, each once, longest waiting first.
        engines: engines that can be sent work.
        num_waiting: rollouts that wait, over all prompts.
        max_in_flight: limit of rollouts on one engine.

    Returns:
        None when nothing waits or every engine is full.
    """
    if not waiting or not engines:
        return None
    num_rollouts = num_waiting + sum(engine.num_in_flight for engine in engines)
    fair_share = -(-num_rollouts // len(engines))
    limit = min(max_in_flight, fair_share)
    has_room = [engine for engine in engines if engine.num_in_flight < limit]
    if not has_room:
        return None
    with_room = {engine.name for engine in has_room}
    names = tuple(engine.name for engine in engines)
    for key in waiting:
        if (favourite := favourite_engine(key, names)) in with_room:
            return key, favourite
    key = waiting[0]
    second = min(has_room, key=lambda engine: (engine.num_in_flight, -affinity(key, engine.name)))
    return key, second.name
