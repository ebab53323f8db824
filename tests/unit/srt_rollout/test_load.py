"""What ``GET /load`` says beside its counts: read from vLLM's own metrics, never waited for."""

from __future__ import annotations

import asyncio

from srt_common.errors import EngineUnavailable
from srt_rollout.load import EngineGauges, GaugeReader, parse_gauges
from support.fake_vllm import METRICS


class SteppedClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return self.now


def test_gauges_are_read_from_the_exposition_and_similar_names_are_not() -> None:
    assert parse_gauges(METRICS) == EngineGauges(num_preemptions=3, kv_cache_usage=0.25)


def test_several_engine_processes_add_their_preemptions_and_show_the_fullest_cache() -> None:
    text = (
        'vllm:num_preemptions_total{engine="0"} 1.0\nvllm:num_preemptions_total{engine="1"} 2.0\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.5\nvllm:kv_cache_usage_perc{engine="1"} 0.75\n'
    )
    assert parse_gauges(text) == EngineGauges(num_preemptions=3, kv_cache_usage=0.75)


def test_an_empty_exposition_counts_as_nothing() -> None:
    assert parse_gauges("") == EngineGauges()


async def test_old_gauges_are_answered_at_once_and_refreshed_behind() -> None:
    clock, reads = SteppedClock(), 0

    async def read() -> EngineGauges:
        nonlocal reads
        reads += 1
        return parse_gauges(METRICS)

    reader = GaugeReader(read, EngineGauges(), max_age_seconds=2.0, clock=clock)
    assert reader.latest() == EngineGauges()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reader.latest().num_preemptions == 3
    assert reads == 1
    clock.now += 2.1
    reader.latest()
    await asyncio.sleep(0)
    assert reads == 2


async def test_an_engine_that_does_not_answer_leaves_the_old_gauges() -> None:
    answers = [parse_gauges(METRICS)]

    async def read() -> EngineGauges:
        if answers:
            return answers.pop()
        raise EngineUnavailable(engine="engine-0", reason="gone")

    reader = GaugeReader(read, EngineGauges(), max_age_seconds=0.0, clock=SteppedClock())
    await reader.refresh()
    await reader.refresh()
    assert reader.latest().kv_cache_usage == 0.25
