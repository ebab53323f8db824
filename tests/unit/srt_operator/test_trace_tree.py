"""Traces as trees: a step, its batch, the slowest of its rollouts, each down to the engine."""

from __future__ import annotations

from collections.abc import Mapping

from srt_common.telemetry import names
from srt_common.telemetry.span_file import AttributeValue, SpanRecord
from srt_operator.trace_tree import Node, Spans, text_of

SECOND = 1_000_000_000


def span(
    name: str,
    span_id: str,
    *,
    trace: str = "step",
    parent: str | None = None,
    at: tuple[float, float] = (0, 1),
    attributes: Mapping[str, AttributeValue] | None = None,
    links: tuple[tuple[str, str], ...] = (),
) -> SpanRecord:
    return SpanRecord(
        trace_id=trace,
        span_id=span_id,
        parent_span_id=parent,
        name=name,
        service="srt-trainer",
        instance="0",
        start_unix_nanos=int(at[0] * SECOND),
        end_unix_nanos=int(at[1] * SECOND),
        attributes=attributes or {},
        links=links,
        is_error=False,
    )


def rollout(number: int, seconds: float) -> list[SpanRecord]:
    trace, identity = f"r{number}", {names.ATTR_ROLLOUT_ID: f"sums/4/0/{number}"}
    at = (1.0, 1.0 + seconds)
    return [
        span("rollout.generate", "g", trace=trace, at=at, attributes=identity, links=(BATCH,)),
        span("gateway.generate", "w", trace=trace, parent="g", at=at),
        span("engine.rollout", "e", trace=trace, parent="w", at=at),
    ]


BATCH = ("step", "b")
STEP = {names.ATTR_STEP: 4}
SPANS = Spans(
    [
        span("srt.step", "s", at=(0, 9), attributes=STEP),
        span("rollout.batch", "b", parent="s", at=(0.5, 6)),
        *rollout(0, 2.0),
        *rollout(1, 5.0),
        *rollout(2, 3.0),
        span("train", "t", parent="s", at=(6, 8)),
        span("reward", "x", parent="killed before it was written", at=(6, 7)),
    ]
)


def outline(node: Node) -> list[object]:
    return [node.span.name, *map(outline, node.children)]


def test_a_step_shows_its_phases_and_the_slowest_rollouts() -> None:
    node = SPANS.step(4, num_rollouts=2)
    assert node is not None
    one = ["rollout.generate", ["gateway.generate", ["engine.rollout"]]]
    assert outline(node) == ["srt.step", ["rollout.batch", one, one], ["train"]]
    batch = node.children[0]
    shown = {child.span.attributes[names.ATTR_ROLLOUT_ID] for child in batch.children}
    assert shown == {"sums/4/0/1", "sums/4/0/2"}
    assert batch.num_hidden == 1


def test_a_rollout_is_found_by_its_id() -> None:
    [node] = SPANS.rollout("sums/4/0/2")
    assert outline(node) == ["rollout.generate", ["gateway.generate", ["engine.rollout"]]]
    assert SPANS.rollout("sums/9/0/0") == []


def test_steps_without_a_trace_are_not_there() -> None:
    assert SPANS.steps() == [4]
    assert SPANS.step(5, num_rollouts=1) is None


def test_a_line_says_when_how_long_who_and_what() -> None:
    root, inner = span("srt.step", "s"), span("rollout.batch", "b", at=(0.5, 6), attributes=STEP)
    assert text_of(inner, root) == "+0.500 s  5.500 s  rollout.batch  [srt-trainer/0]  step=4"
