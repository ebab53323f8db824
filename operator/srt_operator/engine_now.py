"""What one engine does now, as ``srt top`` shows it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from srt_common.messages.rollouts import EngineLoad


class EngineNow(msgspec.Struct, frozen=True, kw_only=True):
    """Load of an engine, and rates over the time since the reading before; None: nothing to say.

    A stock engine has no counters, so it has a load and no rates.
    """

    load: EngineLoad
    tokens_per_second: float | None = None
    """Decoded tokens; the first token of each rollout comes from the prefill and is not one."""
    tokens_per_step: float | None = None
    """Decoded tokens per decoding pass of a rollout; 1: nothing was accepted."""
    cache_hit_fraction: float | None = None
    """Lookups that led to a draft of at least one token."""
    acceptance_rate: float | None = None
    """Accepted tokens per drafted token."""
    bubble: str = ""
    """Type of the bubble that is open; empty: none is."""


def engine_now(
    load: EngineLoad, grown: Mapping[str, int], seconds: float, bubble: str
) -> EngineNow:
    """From what the counters grew by in the ``seconds`` since the reading before."""
    num_steps = grown.get("num_steps", 0)
    num_accepted = grown.get("num_accepted_tokens", 0)
    num_tokens = num_steps + num_accepted
    return EngineNow(
        load=load,
        tokens_per_second=_ratio(num_tokens, seconds) if grown else None,
        tokens_per_step=_ratio(num_tokens, num_steps),
        cache_hit_fraction=_ratio(grown.get("num_hits", 0), grown.get("num_lookups", 0)),
        acceptance_rate=_ratio(num_accepted, grown.get("num_draft_tokens", 0)),
        bubble=bubble,
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
