"""What is made of Prometheus' answers; the same with a real one: test_prometheus_signals.py."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from srt_operator.signals.base import GPUReading
from srt_operator.signals.prometheus import Prometheus

UTIL, ACTIVE = "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"


class Clock:
    def monotonic(self) -> float:
        return 50.0

    def unix(self) -> float:
        return 1_000.0


def series(name: str, number: str, *, at: float = 999.0, **labels: str) -> dict[str, Any]:
    return {"metric": {"__name__": name, **labels}, "values": [[at - 1.0, "1"], [at, number]]}


async def readings(*answers: httpx.Response | list[dict[str, Any]]) -> dict[str, GPUReading]:
    """What is known after answers to both queries, for each time it asks."""
    left = [
        one if isinstance(one, httpx.Response) else httpx.Response(200, json=body(one))
        for one in answers
    ]
    nobody = httpx.Response(503)
    answer = httpx.MockTransport(lambda _: left.pop(0) if left else nobody)
    client = httpx.AsyncClient(transport=answer)
    source = Prometheus(client, "http://p:9090", namespace="team", engines=["a-0"], clock=Clock())
    while left:
        await source.ask()
    return dict(await source.read())


def body(result: list[dict[str, Any]]) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


async def test_the_busiest_gpu_counts_at_the_time_of_the_oldest_sample() -> None:
    found = await readings(
        [
            series(UTIL, "40", gpu="0", pod="a-0"),
            series(UTIL, "90", gpu="1", pod="a-0", at=997.0),
            series(ACTIVE, "0.2", gpu="0", pod="a-0"),
        ],
        [series(ACTIVE, "0.5", gpu="0", pod="dcgm-exporter", exported_pod="a-1")],
    )
    assert found == {"a-0": GPUReading(0.9, 47.0), "a-1": GPUReading(0.5, 49.0)}


async def test_an_empty_answer_and_nan_are_no_data() -> None:
    assert await readings([], []) == {}
    assert await readings([series(UTIL, "NaN", pod="a-0")], []) == {}


@pytest.mark.parametrize(
    "trouble",
    [httpx.Response(503), httpx.Response(200, text="no json"), httpx.Response(200, json={})],
)
async def test_without_an_answer_the_last_reading_stands_and_grows_old(
    trouble: httpx.Response,
) -> None:
    found = await readings([series(UTIL, "40", pod="a-0")], [], trouble, httpx.Response(503))
    assert found == {"a-0": GPUReading(0.4, 49.0)}


async def test_a_clock_that_is_behind_makes_no_sample_of_the_future() -> None:
    assert await readings([series(UTIL, "40", pod="a-0", at=1_005.0)], []) == {
        "a-0": GPUReading(0.4, 50.0)
    }


async def test_raw_samples_of_the_engines_in_their_namespace_are_asked_for() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(parse_qs(request.content.decode())["query"][0])
        return httpx.Response(200, json=body([]))

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    source = Prometheus(
        client, "http://p:9090", namespace="team", engines=["a-0", "a-1"], clock=Clock()
    )
    await source.ask()
    names = f'__name__=~"{UTIL}|{ACTIVE}"'
    assert sorted(asked) == [
        f'{{{names},exported_namespace="team",exported_pod=~"a-0|a-1"}}[15s]',
        f'{{{names},namespace="team",pod=~"a-0|a-1"}}[15s]',
    ]
