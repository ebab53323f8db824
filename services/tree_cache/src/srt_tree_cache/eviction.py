"""Which prompts go when memory is short. Pure: no clock, no trees.

By bytes only, least recently used first; what gained tokens a moment ago stays in any case.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from srt_common.keys import PromptKey


@dataclass(frozen=True, slots=True)
class HeldPrompt:
    """One prompt of a shard that this replica owns."""

    prompt_key: PromptKey
    memory_bytes: int
    appended_at: float
    """Seconds on the caller's monotonic clock of its last append."""


def excess_bytes(memory_bytes: int, *, limit_bytes: int, to_fraction: float) -> int:
    """Bytes to free: 0 up to the limit, beyond it all above ``to_fraction`` of the limit."""
    if memory_bytes <= limit_bytes:
        return 0
    return memory_bytes - int(limit_bytes * to_fraction)


def prompts_to_evict(
    prompts: Iterable[HeldPrompt], *, free_bytes: int, protect_after: float
) -> list[PromptKey]:
    """The first prompts that together free ``free_bytes``, or all that may go when these are fewer.

    Args:
        prompts: least recently used first.
        free_bytes: 0 or less: nothing goes.
        protect_after: a prompt appended to later than this stays.
    """
    chosen: list[PromptKey] = []
    for prompt in prompts:
        if free_bytes <= 0:
            break
        if prompt.appended_at > protect_after:
            continue
        chosen.append(prompt.prompt_key)
        free_bytes -= prompt.memory_bytes
    return chosen
