"""vLLM's HTTP routes, as far as the gateway uses them (reference: vllm.md 4 to 6).

* Bodies of rollouts pass through as bytes, over connections that are kept; control calls take a
  fresh one each, because vLLM closes a kept one after an error without saying so.
* httpx errors and 5xx become `EngineUnavailable`, 4xx `EngineRefused` with vLLM's own sentence.
"""

from __future__ import annotations

from typing import Any, Final

import httpx
import msgspec
from httpx_aiohttp import HttpxAiohttpClient

from srt_common.errors import EngineRefused, EngineUnavailable
from srt_common.messages.rollouts import ABORT_PATH, ENGINE_ID_PREFIX, GENERATE_PATH

COMPLETIONS_PATH = "/v1/completions"

KEEP_ALIVE_SECONDS: Final = 120
"""How long the engine keeps an idle connection; we let go of it earlier."""

_MAX_CONNECTIONS: Final = 100_000
"""The lanes say how many rollouts may be in flight; the pool (aiohttp's: httpx's own looks at every
connection for every request) must not."""
_CONNECT_SECONDS: Final = 5.0
_CONTROL_SECONDS: Final = 30.0
_WEIGHTS_SECONDS: Final = 600.0


class EngineClient:
    """One vLLM server. Safe to share between tasks of one event loop."""

    def __init__(
        self, rollouts: httpx.AsyncClient, control: httpx.AsyncClient, *, engine: str
    ) -> None:
        self._rollouts = rollouts
        self._control_calls = control
        self._engine = engine

    @classmethod
    def to(cls, url: str, *, engine: str) -> EngineClient:
        """Connect lazily. A rollout is never timed out; it is aborted."""
        rollouts = HttpxAiohttpClient(
            base_url=url,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(
                max_connections=_MAX_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS / 2
            ),
            trust_env=False,
        )
        control = httpx.AsyncClient(
            base_url=url,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )
        return cls(rollouts, control, engine=engine)

    async def close(self) -> None:
        """Let go of all connections; what is in flight is aborted by vLLM."""
        await self._rollouts.aclose()
        await self._control_calls.aclose()

    # -- rollouts
    async def generate(self, body: bytes, headers: dict[str, str]) -> bytes:
        """One rollout, answered when it has ended."""
        return await self._post(GENERATE_PATH, body, headers)

    async def complete(self, body: bytes, headers: dict[str, str]) -> bytes:
        """One completion, answered when it has ended."""
        return await self._post(COMPLETIONS_PATH, body, headers)

    async def abort(self, request_id: str) -> None:
        """Ask for the end of a rollout; a no-op for one that vLLM has not registered yet."""
        body = {"request_ids": [ENGINE_ID_PREFIX + request_id]}
        await self._control("POST", ABORT_PATH, json=body)

    # -- weights
    async def pause(self) -> None:
        """Freeze running requests where they are."""
        await self._control("POST", "/pause", params={"mode": "keep"})

    async def resume(self) -> None:
        """Go on after `pause`."""
        await self._control("POST", "/resume")

    async def init_weight_transfer(self, root: str) -> None:
        """Tell the weight backend where updates lie."""
        body = {"init_info": {"root": root}}
        await self._control("POST", "/init_weight_transfer_engine", json=body)

    async def start_weight_update(self) -> None:
        """From here on the weights are undefined until `finish_weight_update`."""
        await self._control("POST", "/start_weight_update")

    async def update_weights(self, path: str) -> None:
        """Load the folder ``path`` below the root."""
        body = {"update_info": {"path": path}}
        await self._control("POST", "/update_weights", timeout=_WEIGHTS_SECONDS, json=body)

    async def finish_weight_update(self, version: str) -> None:
        """Put the loaded weights to use; tokens carry ``version`` from now on."""
        body = {"weight_version": version}
        await self._control("POST", "/finish_weight_update", timeout=_WEIGHTS_SECONDS, json=body)

    async def label_weights(self, version: str) -> None:
        """Name the weights that are in use."""
        await self._control("POST", "/update_weight_version", json={"new_version": version})

    async def reset_prefix_cache(self) -> None:
        """Forget all cached blocks; running requests are recomputed."""
        params = {"reset_running_requests": "true"}
        response = await self._control("POST", "/reset_prefix_cache", params=params)
        if not msgspec.json.decode(response.content)["success"]:
            raise EngineUnavailable(engine=self._engine, reason="prefix cache was not reset")

    async def set_policy_version(self, policy_version: int) -> None:
        """Tell the drafter in the worker."""
        await self._collective_rpc("srt_set_policy_version", [policy_version])

    # -- what it is doing
    async def stats(self) -> dict[str, Any]:
        """The drafter's counters, from the first rank."""
        results = await self._collective_rpc("srt_stats", [])
        return dict(results[0])

    async def metrics(self) -> str:
        """The engine's Prometheus exposition."""
        return (await self._control("GET", "/metrics")).text

    async def is_healthy(self) -> bool:
        """True once requests are served."""
        try:
            await self._control("GET", "/health", timeout=_CONNECT_SECONDS)
        except (EngineUnavailable, EngineRefused):
            return False
        return True

    async def _collective_rpc(self, method: str, args: list[int]) -> list[Any]:
        body = {"method": method, "args": args}
        response = await self._control("POST", "/collective_rpc", json=body)
        results: list[Any] = msgspec.json.decode(response.content)["results"]
        return results

    async def _post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        content = {"Content-Type": "application/json"} | headers
        try:
            response = await self._rollouts.post(path, content=body, headers=content)
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error
        self._raise_for(response)
        return response.content

    async def _control(
        self, method: str, path: str, *, timeout: float = _CONTROL_SECONDS, **options: Any
    ) -> httpx.Response:
        try:
            response = await self._control_calls.request(method, path, timeout=timeout, **options)
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error
        self._raise_for(response)
        return response

    def _raise_for(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        sentence = f"{response.status_code} from vLLM: {_message(response.content)}"
        kind = EngineRefused if response.is_client_error else EngineUnavailable
        raise kind(engine=self._engine, reason=sentence)

    def _unavailable(self, error: httpx.HTTPError) -> EngineUnavailable:
        return EngineUnavailable(engine=self._engine, reason=f"{type(error).__name__}: {error}")


def _message(body: bytes) -> str:
    """The sentence inside vLLM's error body."""
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return "no reason given"
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, dict):
        return str(error.get("message", "no reason given"))
    return str(error or "no reason given")
