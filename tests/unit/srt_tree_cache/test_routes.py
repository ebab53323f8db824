"""HTTP: who may ask what, what wrong questions get, and that nothing shows tokens unasked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import pytest

from srt_common.bearer import BearerToken
from srt_common.errors import TreeStoreUnavailable
from srt_common.keys import PromptKey
from srt_common.messages.tree_cache import MAX_COVERAGE_KEYS
from srt_common.store.memory import MemoryStore
from srt_tree_cache.app import make_app
from srt_tree_cache.routes import MAX_BODY_BYTES
from support.replicas import ManualClock, Rig, appended, new_rig, prompt

TOKEN = "a-token-of-tests"
KEY = prompt(1).hex()
V1 = [
    ("GET", "/v1/stats"),
    ("GET", "/v1/prompts"),
    ("GET", f"/v1/prompts/{KEY}"),
    ("GET", f"/v1/prompts/{KEY}/snapshot"),
    ("POST", "/v1/coverage"),
    ("POST", f"/v1/prompts/{KEY}/prefetch"),
    ("DELETE", f"/v1/prompts/{KEY}"),
]


class StoreThatCanGo(MemoryStore):
    """Removing fails while the store is away."""

    is_away = False

    async def remove_prompt(self, prompt_key: PromptKey) -> None:
        if self.is_away:
            raise TreeStoreUnavailable(address="here", reason="away")
        await super().remove_prompt(prompt_key)


@pytest.fixture
def store() -> StoreThatCanGo:
    return StoreThatCanGo(num_shards=1)


@pytest.fixture
async def rig(store: StoreThatCanGo) -> Rig:
    """Holds prompt 1."""
    rig = new_rig(store, ManualClock())
    await store.append([appended(prompt(1), [70_001, 70_002])])
    while await rig.replica.catch_up():
        pass
    return rig


@pytest.fixture
async def client(rig: Rig, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    transport = httpx.ASGITransport(make_app(rig.cache, BearerToken(file)))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://cache", headers=headers
    ) as client:
        yield client


def problem(answer: httpx.Response) -> tuple[int, str, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    document: Mapping[str, object] = answer.json()
    assert document["status"] == answer.status_code
    return answer.status_code, str(document["type"]), str(document["detail"])


@pytest.mark.parametrize(("method", "path"), V1)
@pytest.mark.parametrize("header", [None, "", "Bearer wrong", TOKEN, f"Basic {TOKEN}", "Bearer é"])
async def test_everything_below_v1_needs_the_token(
    client: httpx.AsyncClient, rig: Rig, method: str, path: str, header: str | None
) -> None:
    del client.headers["Authorization"]
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    answer = await client.request(method, path, headers=headers)
    assert problem(answer)[:2] == (401, "Unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert rig.replica.forest.has_prompt(prompt(1))


async def test_probes_and_metrics_are_open_and_hold_counts_only(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    assert (await client.get("/livez")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200
    metrics = await client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "srt_tree_tokens 2\n" in metrics.text
    assert KEY not in metrics.text


async def test_a_replica_that_is_not_warm_is_not_ready(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    rig = new_rig(MemoryStore(num_shards=1), ManualClock())
    transport = httpx.ASGITransport(make_app(rig.cache, BearerToken(file)))
    async with httpx.AsyncClient(transport=transport, base_url="http://cache") as client:
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/v1", "/v1/stats/", "/"])
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    assert problem(await client.get(path))[:2] == (404, "NotFound")


async def test_stats_and_prompts_show_counts(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/stats")).json()["num_tokens"] == 2
    page = (await client.get("/v1/prompts?limit=10")).json()
    assert [entry["prompt_key"] for entry in page["prompts"]] == [KEY]
    assert page["next_after"] is None
    assert (await client.get(f"/v1/prompts?after={KEY}")).json()["prompts"] == []
    one = (await client.get(f"/v1/prompts/{KEY}")).json()
    assert (one["num_sequences"], one["num_tokens"]) == (1, 2)


async def test_a_snapshot_is_the_canonical_image(client: httpx.AsyncClient, rig: Rig) -> None:
    answer = await client.get(f"/v1/prompts/{KEY}/snapshot")
    assert answer.content == rig.replica.forest.snapshot(prompt(1))


async def test_coverage_answers_for_every_key_asked(client: httpx.AsyncClient) -> None:
    other = prompt(2).hex()
    answer = await client.post("/v1/coverage", json={"prompt_keys": [other, KEY]})
    assert [(entry["prompt_key"], entry["num_tokens"]) for entry in answer.json()] == [
        (other, 0),
        (KEY, 2),
    ]


async def test_prefetch_and_removal(client: httpx.AsyncClient, store: StoreThatCanGo) -> None:
    answer = await client.post(f"/v1/prompts/{KEY}/prefetch")
    assert answer.json() == {"result": "hit"}
    assert await store.snapshot(prompt(1)) is not None
    assert (await client.delete(f"/v1/prompts/{KEY}")).status_code == 204
    assert problem(await client.delete(f"/v1/prompts/{KEY}"))[0] == 404
    answer = await client.post(f"/v1/prompts/{KEY}/prefetch")
    assert answer.json() == {"result": "miss"}


@pytest.mark.parametrize("path", [f"/v1/prompts/{'0' * 32}", f"/v1/prompts/{'0' * 32}/snapshot"])
async def test_an_unknown_prompt_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert problem(await client.get(path))[:2] == (404, "NotFound")


@pytest.mark.parametrize("key", ["x", "00", "0" * 31, "0" * 34, "zz" * 16, "%00" * 16])
async def test_what_is_no_key_is_named(client: httpx.AsyncClient, key: str) -> None:
    status, kind, detail = problem(await client.get(f"/v1/prompts/{key}"))
    assert (status, kind) == (400, "MessageError")
    assert "allowed are 32 hexadecimal digits" in detail


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "9" * 5000, "²"])
async def test_an_impossible_limit_is_named(client: httpx.AsyncClient, limit: str) -> None:
    status, kind, detail = problem(await client.get("/v1/prompts", params={"limit": limit}))
    assert (status, kind) == (400, "MessageError")
    assert "allowed are 1 to 1000" in detail


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"prompt_keys":[1]}', b'{"prompt_keys":[],"tokens":[]}', b"\xff" * 9],
)
async def test_a_malformed_coverage_request_is_refused(
    client: httpx.AsyncClient, body: bytes
) -> None:
    answer = await client.post("/v1/coverage", content=body)
    assert problem(answer)[:2] == (400, "MessageError")


async def test_too_many_keys_and_too_large_bodies_are_refused(client: httpx.AsyncClient) -> None:
    keys = {"prompt_keys": ["00"] * (MAX_COVERAGE_KEYS + 1)}
    answer = await client.post("/v1/coverage", json=keys)
    assert problem(answer)[:2] == (413, "MessageTooLarge")
    answer = await client.post("/v1/coverage", content=b" " * (MAX_BODY_BYTES + 1))
    assert problem(answer)[:2] == (413, "MessageTooLarge")


async def test_a_store_that_is_away_is_a_problem_of_its_own(
    client: httpx.AsyncClient, store: StoreThatCanGo
) -> None:
    store.is_away = True
    answer = await client.delete(f"/v1/prompts/{KEY}")
    assert problem(answer)[:2] == (503, "TreeStoreUnavailable")
