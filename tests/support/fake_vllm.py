"""Stands in for a vLLM server: holds rollouts until they are released or aborted, records the rest.

* ``generate`` answers in vLLM's shape once `FakeVllm.finish` or an abort ends it.
* An abort of an id that has not been registered does nothing, as in vLLM.
* Control calls are recorded in order; a path in ``failing`` answers 500.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from srt_common.messages.rollouts import ABORT_PATH, ENGINE_ID_PREFIX, GENERATE_PATH
from srt_rollout.engine_client import EngineClient

METRICS = """# HELP vllm:num_preemptions_total Cumulative number of preemption from the engine.
vllm:num_preemptions_total{engine="0",model_name="policy"} 3.0
vllm:num_preemptions_created{engine="0",model_name="policy"} 1.795e+09
vllm:kv_cache_usage_perc{engine="0",model_name="policy"} 0.25
"""

CONTROL_PATHS = (
    "/pause",
    "/resume",
    "/init_weight_transfer_engine",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/update_weight_version",
    "/reset_prefix_cache",
    "/collective_rpc",
)


class FakeVllm:
    """One engine, and the client the gateway reaches it by."""

    def __init__(self) -> None:
        self.bodies: dict[str, dict[str, Any]] = {}
        """Every rollout that arrived, by its id."""
        self.headers: dict[str, Mapping[str, str]] = {}
        self.calls: list[str] = []
        """Control calls, in order; of a collective RPC the method's name."""
        self.aborts: list[str] = []
        self.failing: set[str] = set()
        self.held: dict[str, asyncio.Barrier] = {}
        """Control calls that meet a test twice, by path: when they come, and before they go on."""
        self.is_healthy = True
        self.answer_after_seconds: float | None = None
        """Set: rollouts end by themselves with as many tokens 9 as they may have."""
        self.num_ignored_aborts = 0
        """How many further aborts are lost, as if they had overtaken their request."""
        self._running: dict[str, asyncio.Future[tuple[list[int], str]]] = {}
        self._arrival = asyncio.Event()
        self.app = Starlette(
            routes=[
                Route(GENERATE_PATH, self._generate, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route(ABORT_PATH, self._abort, methods=["POST"]),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
                *(Route(path, self._control, methods=["POST"]) for path in CONTROL_PATHS),
            ]
        )

    def client(self, engine: str = "engine-0") -> EngineClient:
        """Reaches this server without a network."""
        http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app), base_url="http://vllm"
        )
        return EngineClient(http, http, engine=engine)

    def finish(self, request_id: str, token_ids: list[int]) -> None:
        """End a running rollout as if it had met its limit."""
        self._running[request_id].set_result((token_ids, "length"))

    def _finish_if_running(self, request_id: str, token_ids: list[int]) -> None:
        running = self._running.get(request_id)
        if running is not None and not running.done():
            running.set_result((token_ids, "length"))

    @property
    def num_running(self) -> int:
        return len(self._running)

    async def wait_running(self, *request_ids: str) -> None:
        """Return once all of these run."""
        while not set(request_ids) <= set(self._running):
            self._arrival.clear()
            await self._arrival.wait()

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        request_id = body["request_id"]
        self.bodies[request_id] = body
        self.headers[request_id] = dict(request.headers)
        if "refuse" in request_id:
            return JSONResponse({"error": {"message": "vLLM says no"}}, status_code=400)
        self._running[request_id] = asyncio.get_running_loop().create_future()
        self._arrival.set()
        if self.answer_after_seconds is not None:
            answer = [9] * body["sampling_params"]["max_tokens"]
            asyncio.get_running_loop().call_later(
                self.answer_after_seconds, self._finish_if_running, request_id, answer
            )
        try:
            token_ids, reason = await self._running[request_id]
        finally:
            del self._running[request_id]
        speculation = {
            "num_spec_steps": 2,
            "num_draft_tokens": 6,
            "num_accepted_draft_tokens": 4,
        }
        return JSONResponse(
            {
                "request_id": ENGINE_ID_PREFIX + request_id,
                "choices": [{"index": 0, "token_ids": token_ids, "finish_reason": reason}],
                "metrics": {"speculative_decoding": speculation},
            }
        )

    async def _complete(self, request: Request) -> Response:
        self.bodies["completion"] = await request.json()
        return JSONResponse({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})

    async def _abort(self, request: Request) -> Response:
        for name in (await request.json())["request_ids"]:
            self.aborts.append(name)
            running = self._running.get(name.removeprefix(ENGINE_ID_PREFIX))
            if self.num_ignored_aborts > 0:
                self.num_ignored_aborts -= 1
            elif running is not None and not running.done() and name.startswith(ENGINE_ID_PREFIX):
                running.set_result(([7, 8], "abort"))
        return Response()

    async def _control(self, request: Request) -> Response:
        path = request.url.path
        body = await request.body()
        detail = json.loads(body) if body else {}
        self.calls.append(detail.get("method", path))
        if path in self.held:
            await self.held[path].wait()
            await self.held[path].wait()
        if path in self.failing:
            return JSONResponse({"error": {"message": "worker failed"}}, status_code=500)
        return JSONResponse({"success": True, "results": [{"engine": "engine-0"}]})

    async def _health(self, _: Request) -> Response:
        return Response(status_code=200 if self.is_healthy else 503)

    async def _metrics(self, _: Request) -> Response:
        return PlainTextResponse(METRICS)
