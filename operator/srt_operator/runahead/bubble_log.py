"""What bubbles were and what filled them: lines of ``bubbles.jsonl``, spans, a histogram.

* Slot-seconds are integrated over the signals seen while a bubble is open.
* Free slots are all that no policy rollout holds, the reserve included: what could be filled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.metrics import Meter
from opentelemetry.trace import Span, Tracer

from srt_common.messages.rollouts import EngineLoad
from srt_common.telemetry import names
from srt_common.telemetry.instruments import BubbleInstruments
from srt_operator.run_lines import Line


@dataclass(slots=True, kw_only=True)
class OpenBubble:
    """One bubble that is open."""

    engine: str
    epoch: int
    bubble_type: str
    step: int
    opened_at: float
    """Seconds, monotonic."""
    opened_at_unix: float
    span: Span
    held_at: float
    """When its key was last renewed, monotonic."""
    seen_at: float
    """Until when it is accounted for, monotonic."""
    confirmed_by: tuple[str, ...] = ()
    """Sources of GPU utilisation that said at its opening that the GPU was free."""
    free_slot_seconds: float = 0.0
    run_ahead_slot_seconds: float = 0.0
    run_ahead_slot_seconds_in_training: float = 0.0
    """Of these, what fell into a phase in which the trainer computes."""
    num_chunks: int = 0

    def account(self, load: EngineLoad, *, now: float, is_training: bool) -> None:
        """Add the time since the last signal, at this signal's load."""
        seconds, self.seen_at = now - self.seen_at, now
        used = load.num_running_run_ahead * seconds
        self.free_slot_seconds += max(0, load.max_num_seqs - load.num_running_policy) * seconds
        self.run_ahead_slot_seconds += used
        self.run_ahead_slot_seconds_in_training += used if is_training else 0.0


class BubbleLog:
    """Writes bubbles down when they close."""

    def __init__(self, write: Callable[[Line], None], *, tracer: Tracer, meter: Meter) -> None:
        self._write = write
        self._tracer = tracer
        self._instruments = BubbleInstruments.of(meter)

    def span(self, engine: str, *, epoch: int, bubble_type: str, step: int) -> Span:
        """Begin the span of a bubble; chunks link to it."""
        attributes: dict[str, str | int] = {
            names.ATTR_ENGINE_NAME: engine,
            names.ATTR_BUBBLE_EPOCH: epoch,
            names.ATTR_BUBBLE_TYPE: bubble_type,
            names.ATTR_STEP: step,
        }
        return self._tracer.start_span(names.SPAN_BUBBLE, attributes=attributes)

    def gpu(self, engine: str, *, source: str, utilization: float) -> None:
        """Show how busy an engine's GPU is."""
        attributes = {names.ATTR_ENGINE_NAME: engine, names.ATTR_GPU_SOURCE: source}
        self._instruments.gpu_utilization.set(utilization, attributes)

    def closed(self, bubble: OpenBubble, *, now: float, reason: str) -> None:
        """End the span and add the line."""
        seconds = now - bubble.opened_at
        bubble.span.end()
        self._instruments.duration.record(seconds, {names.ATTR_BUBBLE_TYPE: bubble.bubble_type})
        self._write(
            {
                "kind": "bubble",
                "engine": bubble.engine,
                "type": bubble.bubble_type,
                "epoch": bubble.epoch,
                "step": bubble.step,
                "opened_at_unix": bubble.opened_at_unix,
                "seconds": seconds,
                "free_slot_seconds": bubble.free_slot_seconds,
                "run_ahead_slot_seconds": bubble.run_ahead_slot_seconds,
                "run_ahead_slot_seconds_in_training": bubble.run_ahead_slot_seconds_in_training,
                "num_chunks": bubble.num_chunks,
                "confirmed_by": bubble.confirmed_by,
                "closed_by": reason,
            },
        )
