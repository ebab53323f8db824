"""What the gateway tells of a rollout: one span that continues its caller's trace, and a hint.

Promise 9: neither holds a token of prompt or completion.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.sdk.trace import ReadableSpan
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from srt_common.keys import prompt_key
from srt_common.telemetry import names
from srt_rollout.prefetch import PromptPrefetch
from support.gateway import Gateway

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
SECRET, FINGERPRINT = b"secret", b"fingerprint"


class FakeTreeCache:
    """Records prefetch calls; answers none of them before it is let go."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.traceparents: list[str | None] = []
        self.let_go = asyncio.Event()
        path = "/v1/prompts/{key}/prefetch"
        self._app = Starlette(routes=[Route(path, self._prefetch, methods=["POST"])])

    def prefetch(self) -> PromptPrefetch:
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self._app), base_url="http://tree-cache"
        )
        return PromptPrefetch(client, secret=SECRET, fingerprint=FINGERPRINT)

    async def _prefetch(self, request: Request) -> Response:
        self.keys.append(request.path_params["key"])
        self.traceparents.append(request.headers.get("traceparent"))
        await self.let_go.wait()
        return Response()


async def answered(gateway: Gateway, request_id: str, **changes: Any) -> None:
    gateway.http.headers["traceparent"] = TRACEPARENT
    call = asyncio.create_task(gateway.generate(request_id, **changes))
    await gateway.vllm.wait_running(request_id)
    gateway.vllm.finish(request_id, [41, 42, 43])
    await call


def span_of(gateway: Gateway) -> ReadableSpan:
    [span] = gateway.telemetry.spans(names.SPAN_GATEWAY_GENERATE)
    return span


async def test_a_rollouts_span_continues_its_callers_trace_and_says_what_was_accepted(
    tmp_path: Path,
) -> None:
    extra = {"srt_rollout_id": "rollout-7", "srt_group_id": "group-1", "srt_policy_version": 5}
    async with Gateway.started(tmp_path) as gateway:
        gateway.pod.weights.policy_version = 5
        await answered(gateway, "r1", sampling_params={"extra_args": extra})
        span = span_of(gateway)
    assert span.context is not None and format(span.context.trace_id, "032x") == TRACE_ID
    assert dict(span.attributes or {}) == {
        "srt.engine.name": "engine-0",
        "srt.lane": "policy",
        "srt.rollout.id": "rollout-7",
        "srt.group.id": "group-1",
        "srt.policy.version": 5,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ("length",),
        "srt.draft.steps": 2,
        "srt.draft.tokens": 6,
        "srt.draft.accepted_tokens": 4,
    }


async def test_the_engines_span_will_be_the_gateways_child(tmp_path: Path) -> None:
    async with Gateway.started(tmp_path) as gateway:
        await answered(gateway, "r1")
        span, body = span_of(gateway), gateway.vllm.bodies["r1"]
    assert span.context is not None
    expected = f"00-{TRACE_ID}-{span.context.span_id:016x}-01"
    assert body["sampling_params"]["extra_args"]["traceparent"] == expected
    assert gateway.vllm.headers["r1"]["traceparent"] == expected


async def test_counters_are_flushed_once_per_rollout(tmp_path: Path) -> None:
    async with Gateway.started(tmp_path) as gateway:
        await answered(gateway, "r1")
        await answered(gateway, "r2", lane="run_ahead")
        lane = {names.ATTR_LANE: "policy"}
        assert gateway.telemetry.value(names.METRIC_DRAFT_TOKENS, lane) == 6
        assert gateway.telemetry.value(names.METRIC_ACCEPTED_TOKENS) == 8
        assert gateway.telemetry.value(names.METRIC_ROLLOUT_DURATION, lane) == 1


async def test_a_refused_rollouts_span_is_an_error_and_counts_nothing(tmp_path: Path) -> None:
    async with Gateway.started(tmp_path) as gateway:
        await gateway.generate("refuse-me")
        span = span_of(gateway)
        assert (span.status.is_ok, span.status.description, span.events) == (False, None, ())
        assert (span.attributes or {})[names.ATTR_ERROR_TYPE] == "EngineRefused"
        assert gateway.telemetry.value(names.METRIC_ROLLOUT_DURATION) == 0


async def test_the_tree_cache_hears_once_of_each_prompt_and_is_never_waited_for(
    tmp_path: Path,
) -> None:
    tree_cache = FakeTreeCache()
    async with Gateway.started(tmp_path, prefetch=tree_cache.prefetch()) as gateway:
        await answered(gateway, "r1")
        await answered(gateway, "r2")
        await answered(gateway, "r3", token_ids=[9, 9])
        assert tree_cache.keys == [
            prompt_key(SECRET, FINGERPRINT, token_ids=tokens).hex()
            for tokens in ([1, 2, 3], [9, 9])
        ]
        tree_cache.let_go.set()
        first = {
            (span.attributes or {})[names.ATTR_INPUT_TOKENS]: span.context
            for span in reversed(gateway.telemetry.spans(names.SPAN_GATEWAY_GENERATE))
        }
        assert tree_cache.traceparents == [
            f"00-{TRACE_ID}-{first[num_tokens].span_id:016x}-01" for num_tokens in (3, 2)
        ]


async def test_a_later_turn_is_known_by_its_first_prompt_or_its_tasks_name(tmp_path: Path) -> None:
    tree_cache = FakeTreeCache()
    tree_cache.let_go.set()
    async with Gateway.started(tmp_path, prefetch=tree_cache.prefetch()) as gateway:
        turn = {"sampling_params": {"extra_args": {"srt_num_prompt_tokens": 2}}}
        await answered(gateway, "r1", token_ids=[1, 2])
        await answered(gateway, "r2", token_ids=[1, 2, 8, 9], **turn)
        named = {"sampling_params": {"extra_args": {"srt_prompt_id": "task-4"}}}
        await answered(gateway, "r3", **named)
    assert tree_cache.keys == [
        prompt_key(SECRET, FINGERPRINT, token_ids=[1, 2]).hex(),
        prompt_key(SECRET, FINGERPRINT, token_ids=[], prompt_id="task-4").hex(),
    ]


async def test_a_tree_cache_that_is_away_costs_nothing(tmp_path: Path) -> None:
    client = httpx.AsyncClient(base_url="http://127.0.0.1:1", timeout=0.2)
    prefetch = PromptPrefetch(client, secret=SECRET, fingerprint=FINGERPRINT)
    async with Gateway.started(tmp_path, prefetch=prefetch) as gateway:
        await answered(gateway, "r1")
