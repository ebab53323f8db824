"""The trace of one optimizer step, or of one rollout, as a tree of a run's spans. Pure.

* A rollout is a trace of its own that links to the batch it belongs to; it is shown below it.
* Of a batch's rollouts only the slowest are shown: the step waits for them.
* A span whose parent was never written, because its process was killed, is not reached.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from srt_common.telemetry import names
from srt_common.telemetry.span_file import SpanRecord

SHOWN: Final[Mapping[str, str]] = {
    names.ATTR_STEP: "step",
    names.ATTR_ROLLOUT_ID: "rollout",
    names.ATTR_ENGINE_NAME: "engine",
    names.ATTR_POLICY_VERSION: "policy",
    names.ATTR_OUTPUT_TOKENS: "tokens",
    names.ATTR_DRAFT_STEPS: "steps",
    names.ATTR_DRAFT_TOKENS: "drafted",
    names.ATTR_ACCEPTED_TOKENS: "accepted",
    names.ATTR_MATCH_LENGTH: "match",
    names.ATTR_CACHE_RESULT: "cache",
    names.ATTR_ERROR_TYPE: "error",
}
"""Attributes that are shown, and as what."""


@dataclass(slots=True)
class Node:
    """One span and what lies below it, in order of start."""

    span: SpanRecord
    children: list[Node] = field(default_factory=list)
    num_hidden: int = 0
    """Rollouts of this batch that are not among the children."""


class Spans:
    """The spans of a run, found by what they are below."""

    def __init__(self, spans: Sequence[SpanRecord]) -> None:
        """``spans`` in order of their start."""
        self._spans = spans
        self._below: dict[tuple[str, str], list[SpanRecord]] = defaultdict(list)
        self._linked: dict[tuple[str, str], list[SpanRecord]] = defaultdict(list)
        for span in spans:
            if span.parent_span_id is not None:
                self._below[span.trace_id, span.parent_span_id].append(span)
            if span.name == names.SPAN_ROLLOUT_GENERATE:
                for link in span.links:
                    self._linked[link].append(span)

    def steps(self) -> list[int]:
        """Steps that have ended, in order."""
        return sorted({int(str(span.attributes[names.ATTR_STEP])) for span in self._step_spans()})

    def step(self, number: int, *, num_rollouts: int) -> Node | None:
        """The last time that a step was taken, with its slowest rollouts; None: it has no trace."""
        found = [s for s in self._step_spans() if s.attributes[names.ATTR_STEP] == number]
        return self._node(found[-1], num_rollouts) if found else None

    def rollout(self, rollout_id: str) -> list[Node]:
        """Every attempt at a rollout."""
        return [
            self._node(span, 0)
            for span in self._spans
            if span.name == names.SPAN_ROLLOUT_GENERATE
            and span.attributes.get(names.ATTR_ROLLOUT_ID) == rollout_id
        ]

    def _step_spans(self) -> list[SpanRecord]:
        return [
            span
            for span in self._spans
            if span.name == names.SPAN_STEP and names.ATTR_STEP in span.attributes
        ]

    def _node(self, span: SpanRecord, num_rollouts: int) -> Node:
        key = (span.trace_id, span.span_id)
        linked = sorted(self._linked[key], key=lambda s: s.duration_seconds, reverse=True)
        shown = linked[:num_rollouts]
        below = sorted([*self._below[key], *shown], key=lambda s: s.start_unix_nanos)
        children = [self._node(child, num_rollouts) for child in below]
        return Node(span, children, num_hidden=len(linked) - len(shown))


def text_of(span: SpanRecord, root: SpanRecord) -> str:
    """Start after the root's, duration, name, who says so, and what it says."""
    after = (span.start_unix_nanos - root.start_unix_nanos) / 1e9
    told = [
        f"{word}={span.attributes[key]}" for key, word in SHOWN.items() if key in span.attributes
    ]
    failed = ["failed"] if span.is_error else []
    who = "/".join(part for part in (span.service, span.instance) if part)
    parts = [f"+{after:.3f} s", f"{span.duration_seconds:.3f} s", span.name, f"[{who}]"]
    return "  ".join([*parts, *told, *failed])
