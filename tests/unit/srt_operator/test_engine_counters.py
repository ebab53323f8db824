"""Engine counters: totals survive restarts of engines, and silence is no error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_common.clock import SystemClock
from srt_operator.engine_counters import COUNTED, CounterTotal, EngineCounters, counts_in
from srt_operator.http_client import plain_client
from srt_operator.run_lines import Line, append_line, read_lines


def stats(**rows: Any) -> bytes:
    base = dict.fromkeys(COUNTED, 1) | {"accepted_by_source": [1, 2, 3]}
    return json.dumps({"engine": "rollout-0", "trees": {"rows": base | rows}}).encode()


def test_drafting_counters_are_picked_from_an_engines_statistics() -> None:
    counts = counts_in(stats(num_draft_tokens=9, num_remote_draft_tokens=4))
    assert counts is not None
    assert (counts["num_draft_tokens"], counts["num_remote_draft_tokens"]) == (9, 4)
    assert (counts["num_accepted_history"], counts["num_accepted_run_ahead"]) == (1, 3)


def test_an_engine_that_began_anew_keeps_what_it_had_counted() -> None:
    total = CounterTotal()
    for reading in (3, 8, 2, 6):
        total.add({"n": reading})
    assert total.total() == {"n": 14}


@given(st.lists(st.lists(st.integers(0, 20), min_size=1), min_size=1))
def test_the_total_is_the_sum_of_all_lives(lives: list[list[int]]) -> None:
    total = CounterTotal()
    expected, last = 0, 0
    for life in lives:
        grown = [sum(life[: n + 1]) for n in range(len(life))]
        if grown[0] >= last and last:  # a new life shows only where it counts less
            grown = [0, *grown]
        for reading in grown:
            total.add({"n": reading})
        expected, last = expected + grown[-1], grown[-1]
    assert total.total()["n"] == expected


def counters_of(
    client: httpx.AsyncClient, url: str, token: str, write: Callable[[Line], None]
) -> EngineCounters:
    return EngineCounters(
        client,
        {"rollout-0": url},
        token=lambda: token,
        write=write,
        bubbles=dict,
        clock=SystemClock(),
    )


async def test_all_readings_go_over_one_connection_with_the_token() -> None:
    connections, heads = 0, list[bytes]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, plain_client() as client:
        counters = counters_of(client, url, "secret", lambda _: None)
        for _ in range(3):
            await counters.read()
    assert (connections, len(heads)) == (1, 3)
    assert all(b"authorization: bearer secret" in head.lower() for head in heads)


async def test_engines_that_do_not_answer_leave_no_line(tmp_path: Path) -> None:
    write = partial(append_line, tmp_path / "engines.jsonl")
    async with plain_client() as client:
        await counters_of(client, "http://127.0.0.1:9", "x", write).read()
    assert read_lines(tmp_path / "engines.jsonl") == []


@pytest.mark.parametrize("answer", [{}, {"trees": {}}, {"trees": {"rows": {"num_steps": "x"}}}, []])
def test_statistics_of_another_shape_count_nothing(answer: object) -> None:
    assert counts_in(json.dumps(answer).encode()) is None
