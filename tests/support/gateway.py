"""A gateway in this process, in front of a `FakeVllm`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from srt_common.bearer import BearerToken
from srt_common.clock import SystemClock
from srt_rollout.admission import Limits
from srt_rollout.gateway import make_app
from srt_rollout.pod import Pod
from srt_rollout.prefetch import PromptPrefetch
from srt_rollout.rollout_trace import RolloutTraces
from srt_rollout.settings import RolloutSettings
from support.fake_vllm import FakeVllm
from support.otel import RecordedTelemetry

TOKEN = "0123456789abcdef"
VOCABULARY_SIZE = 64


class Gateway:
    """What a test needs of one: the pod, the app, a client that presents the token."""

    def __init__(
        self, vllm: FakeVllm, folder: Path, *, prefetch: PromptPrefetch | None, **changes: Any
    ) -> None:
        self.vllm = vllm
        self.telemetry = RecordedTelemetry()
        self.token_file = folder / "token"
        self.token_file.write_text(TOKEN + "\n")
        self.weights_root = folder / "weights"
        self.weights_root.mkdir()
        given: dict[str, Any] = {
            "engine_name": "engine-0",
            "model": folder,
            "token_file": self.token_file,
            "weights_root": self.weights_root,
            "max_num_seqs": 4,
            "reserve_slots": 1,
            "max_waiting_requests": 2,
            "max_model_len": 32,
            "max_body_bytes": 4096,
            "drain_seconds": 5.0,
        }
        self.settings = settings = RolloutSettings(**(given | changes))
        limits = Limits(
            engine="engine-0",
            max_model_len=settings.max_model_len,
            vocabulary_size=VOCABULARY_SIZE,
        )
        self.pod = Pod(
            settings,
            vllm.client(),
            limits=limits,
            traces=RolloutTraces(
                "engine-0", tracer=self.telemetry.tracer, meter=self.telemetry.meter
            ),
            prefetch=prefetch,
            clock=SystemClock(),
        )
        self.app: FastAPI = make_app(
            self.pod, token=BearerToken(self.token_file), max_body_bytes=settings.max_body_bytes
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app),
            base_url="http://gateway",
            headers={"Authorization": f"Bearer {TOKEN}"},
        )

    @classmethod
    @asynccontextmanager
    async def started(
        cls, folder: Path, *, prefetch: PromptPrefetch | None = None, **changes: Any
    ) -> AsyncIterator[Gateway]:
        """A gateway whose engine is healthy."""
        gateway = cls(FakeVllm(), folder, prefetch=prefetch, **changes)
        await gateway.pod.wait_started()
        gateway.vllm.calls.clear()
        async with gateway.http:
            yield gateway
        await gateway.pod.close()

    async def generate(
        self, request_id: str, *, lane: str = "policy", **changes: Any
    ) -> httpx.Response:
        """Send one rollout and wait for its answer."""
        params: dict[str, Any] = {"max_tokens": 8, "extra_args": {"srt_lane": lane}}
        body: dict[str, Any] = {
            "request_id": request_id,
            "token_ids": [1, 2, 3],
            "sampling_params": params | changes.pop("sampling_params", {}),
        }
        return await self.http.post("/inference/v1/generate", json=body | changes)
