"""Stands in for a rollout engine behind its gateway: HTTP, real weights, reproducible samples.

* Samples from the model whose weights it was told to load, and reports that model's
  log-probabilities.
* What it samples is decided by weights, rollout id and position alone: asked again it says the
  same.
* Tests script its troubles: see the attributes of `SamplingEngine`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import uvicorn
from safetensors.torch import load_model
from transformers import AutoModelForCausalLM

from srt_rollout.weights_download import WeightsDownload

NUM_DRAFT_TOKENS = 4
"""Drafts it claims for each response, of which it accepts a half where the response is long
enough."""


class SamplingEngine:
    """One engine, on a free port of 127.0.0.1 unless told; use as a context manager."""

    def __init__(
        self,
        name: str,
        *,
        model: Path,
        weights_root: Path,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.name = name
        self.requests: list[dict[str, Any]] = []
        """Every generate request, as received."""
        self.headers: list[dict[str, str]] = []
        self.completed: list[tuple[str, int]] = []
        """Rollout id and policy version of every response that ended."""
        self.loaded: list[int] = []
        """Policy versions, in the order they were loaded."""
        self.statuses: list[int] = []
        """Status codes for the next generate requests, instead of an answer."""
        self.abort_after: list[int] = []
        """Tokens after which the next responses are aborted."""
        self.on_request: Callable[[dict[str, Any]], None] = lambda _: None
        """Called with each generate request before it is answered."""
        self.delay_seconds = 0.0
        """How long each response takes."""
        self.most_in_flight = 0
        self.num_in_flight = 0
        self.model_folder = model
        self.download: WeightsDownload | None = None
        """Set: weights come by URL, fetched as the gateway fetches them."""
        self._weights_root = weights_root
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._socket = socket.create_server(address)
        self.url = "http://{}:{}".format(*self._socket.getsockname())
        self.forget_weights()

    def forget_weights(self) -> None:
        """Be as after a restart."""
        self.policy_version = 0
        self.weights_url = ""
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            self.model_folder, dtype=torch.float32
        )

    async def __aenter__(self) -> SamplingEngine:
        config = uvicorn.Config(
            self._app, interface="asgi3", log_config=None, lifespan="off", timeout_keep_alive=60
        )
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        place: TracebackType | None,
    ) -> None:
        assert self._server is not None
        assert self._task is not None
        self._server.should_exit = self._server.force_exit = True
        await self._task

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive()).get("more_body", False):
            body += message["body"]
        body += message.get("body", b"")
        self.headers.append({key.decode(): value.decode() for key, value in scope["headers"]})
        document = json.loads(body) if body else {}
        status, answer = await self._answer(scope["path"], document)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def _answer(self, path: str, document: dict[str, Any]) -> tuple[int, object]:
        if path == "/load":
            return 200, {
                "engine": self.name,
                "policy_version": self.policy_version,
                "max_num_seqs": 8,
                "reserve_slots": 0,
                "num_running_policy": self.num_in_flight,
                "num_waiting_policy": 0,
                "num_running_run_ahead": 0,
                "weights_url": self.weights_url,
            }
        if path == "/srt/v1/weights":
            await self._load_weights(document)
            return 200, {}
        assert path == "/inference/v1/generate", path
        self.requests.append(document)
        self.on_request(document)
        if self.statuses:
            return self.statuses.pop(0), {"type": "EngineUnavailable", "title": "scripted"}
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        try:
            await asyncio.sleep(self.delay_seconds)
            return 200, self._generate(document)
        finally:
            self.num_in_flight -= 1

    async def _load_weights(self, document: dict[str, Any]) -> None:
        version, url = document["policy_version"], document.get("url", "")
        if self.download is None:
            name = document["path"]
        else:
            name = await asyncio.to_thread(self.download.fetch, url, version, loaded=None)
        load_model(self._model, self._weights_root / name / "model.safetensors")
        self.policy_version, self.weights_url = version, url
        self.loaded.append(version)

    @torch.no_grad()
    def _generate(self, document: dict[str, Any]) -> object:
        parameters = document["sampling_params"]
        extra = parameters["extra_args"]
        context = list(document["token_ids"])
        num_prompt_tokens = extra.get("srt_num_prompt_tokens", len(context))
        limit = self.abort_after.pop(0) if self.abort_after else parameters["max_tokens"]
        reason = "abort" if limit < parameters["max_tokens"] else "length"
        sampled: list[dict[str, Any]] = []
        while len(sampled) < limit:
            logits = self._model(torch.tensor([context])).logits[0, -1]
            log_probs = (logits / parameters.get("temperature", 1.0)).log_softmax(0)
            name = f"{extra['srt_rollout_id']}:{len(context) - num_prompt_tokens}"
            uniform = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest()) / 2**48
            token = int(torch.searchsorted(log_probs.exp().cumsum(0), uniform).clamp(max=63))
            sampled.append({"token_id": token, "logprob": log_probs[token].item()})
            context.append(token)
            if token in parameters["stop_token_ids"]:
                reason = "stop"
                break
        if reason != "abort":
            self.completed.append((extra["srt_rollout_id"], self.policy_version))
        return self._response(document["request_id"], sampled, reason)

    def _response(self, request_id: str, sampled: list[dict[str, Any]], reason: str) -> object:
        num_accepted = min(NUM_DRAFT_TOKENS // 2, len(sampled) - 1)
        return {
            "request_id": request_id,
            "choices": [
                {
                    "index": 0,
                    "token_ids": [token["token_id"] for token in sampled],
                    "finish_reason": reason,
                    "logprobs": {"content": sampled},
                    "weight_versions": [
                        {
                            "version": str(self.policy_version) if self.loaded else "default",
                            "start": 0,
                            "end": len(sampled),
                        }
                    ],
                }
            ],
            "metrics": {
                "speculative_decoding": {
                    "num_spec_steps": 1,
                    "num_draft_tokens": NUM_DRAFT_TOKENS,
                    "num_accepted_draft_tokens": num_accepted,
                }
            },
        }
