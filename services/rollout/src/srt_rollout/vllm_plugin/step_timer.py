"""Measures engine steps: from one schedule to the next, while the engine has work.

That is everything a step costs, drafting for the next one included. A gap in which the engine may
have had nothing to do is not counted: only steps with a request in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srt_common.clock import Clock
from srt_common.governor import MeasuredStep


@dataclass(slots=True)
class _Running:
    started: float
    schedule: Any
    num_rows: int = 0
    num_emitted: int = 0


class StepTimer:
    """One engine's steps, as its worker sees them begin."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: _Running | None = None

    def on_sampled(self, *, num_rows: int, num_emitted: int) -> None:
        """The running step sampled for these rows. A step without this call is not measured."""
        if self._running is not None:
            self._running.num_rows, self._running.num_emitted = num_rows, num_emitted

    def on_schedule(self, scheduler_output: Any, *, is_asked: bool = True) -> MeasuredStep | None:
        """A step begins. Returns the one before it, if it can be measured and somebody asks."""
        now = self._clock.monotonic()
        last, self._running = self._running, _Running(now, scheduler_output)
        if not is_asked or last is None or last.num_rows == 0:
            return None
        scheduled = last.schedule.num_scheduled_tokens
        if not any(it in scheduled for it in scheduler_output.scheduled_cached_reqs.req_ids):
            return None
        drafts = last.schedule.scheduled_spec_decode_tokens.values()
        num_drafts = sum(len(draft) for draft in drafts)
        num_prompt = last.schedule.total_num_scheduled_tokens - last.num_rows - num_drafts
        return MeasuredStep(
            num_rows=last.num_rows,
            num_draft_tokens=num_drafts,
            num_prompt_tokens=max(0, num_prompt),
            num_emitted=last.num_emitted,
            seconds=now - last.started,
        )
