"""Serving weights: what is told of a version, who may have it, ranges, and what is not served."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from srt_common.bearer import BearerToken
from srt_common.messages.weights import WeightsFile, WeightsManifest
from srt_trainer.weights_server import WeightsServer
from support.gateway_process import free_port

TOKEN = "a token of the tests"
FILES = {"a.safetensors": b"first" * 1000, "b.safetensors": b"second"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "weights", FILES)
    (tmp_path / "weights/secret.safetensors").write_bytes(b"outside of a version")
    return tmp_path / "weights"


def write(folder: Path, files: dict[str, bytes]) -> None:
    version = folder / "policy-000012"
    version.mkdir(parents=True)
    (version / "config.json").write_text("{}")
    for name, content in files.items():
        (version / name).write_bytes(content)


@pytest.fixture
async def http(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    token_file = folder.parent / "token"
    token_file.write_text(TOKEN)
    port = free_port()
    async with (
        WeightsServer(folder, BearerToken(token_file), host="127.0.0.1", port=port),
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}
        ) as client,
    ):
        yield client


async def manifest(http: httpx.AsyncClient) -> WeightsManifest:
    response = await http.get("/v1/weights/12")
    assert response.status_code == 200
    return msgspec.json.decode(response.content, type=WeightsManifest)


async def test_a_manifest_names_every_weight_file_with_size_and_checksum(
    http: httpx.AsyncClient,
) -> None:
    assert await manifest(http) == WeightsManifest(
        policy_version=12,
        files=tuple(
            WeightsFile(name, len(content), hashlib.sha256(content).hexdigest())
            for name, content in FILES.items()
        ),
    )


async def test_a_file_is_served_whole_and_from_anywhere(http: httpx.AsyncClient) -> None:
    whole = await http.get("/v1/weights/12/a.safetensors")
    assert whole.content == FILES["a.safetensors"]
    rest = await http.get("/v1/weights/12/a.safetensors", headers={"Range": "bytes=4000-"})
    assert (rest.status_code, rest.content) == (206, FILES["a.safetensors"][4000:])
    assert rest.headers["content-range"] == "bytes 4000-4999/5000"


async def test_a_version_that_is_written_again_has_a_new_manifest(
    http: httpx.AsyncClient, folder: Path
) -> None:
    before = await manifest(http)
    shutil.rmtree(folder / "policy-000012")
    write(folder, {"a.safetensors": b"other"})
    after = await manifest(http)
    assert after != before
    assert [file.size for file in after.files] == [5]


@pytest.mark.parametrize("path", ["/v1/weights/12", "/v1/weights/12/a.safetensors", "/nothing"])
@pytest.mark.parametrize("header", ["", "Bearer another token here"])
async def test_nothing_is_served_without_the_token(
    http: httpx.AsyncClient, path: str, header: str
) -> None:
    response = await http.get(path, headers={"Authorization": header})
    assert response.status_code == 401
    assert response.text == "the Authorization header carries no valid token"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/weights/13",
        "/v1/weights/-1",
        "/v1/weights/12x",
        "/v1/weights/12/config.json",
        "/v1/weights/12/none.safetensors",
        "/v1/weights/12/..%2Fsecret.safetensors",
        "/v1/weights/12/%2e%2e/secret.safetensors",
        "/v1/weights",
        "/",
    ],
)
async def test_anything_else_is_not_there(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 404


async def test_nothing_can_be_sent(http: httpx.AsyncClient) -> None:
    assert (await http.post("/v1/weights/12", content=b"x")).status_code == 405
