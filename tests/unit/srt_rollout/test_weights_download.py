"""Fetching weights: whole, resumed, checked; from where it is allowed, as large as is allowed."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from srt_common.bearer import BearerToken
from srt_common.errors import EngineRefused, EngineUnavailable
from srt_rollout import weights_download
from srt_rollout.weights_download import MAX_ATTEMPTS, WeightsDownload
from support.weights_site import TOKEN, Request, WeightsSite

FILES = {
    "model-00001-of-00002.safetensors": os.urandom(50_000),
    "model-00002-of-00002.safetensors": os.urandom(30_000),
}
FIRST = next(iter(FILES))


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_download, "FIRST_BACKOFF_SECONDS", 0.0)


@pytest.fixture
def site() -> Iterator[WeightsSite]:
    with WeightsSite.started() as started:
        yield started


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def download_to(
    root: Path, site: WeightsSite, *, prefix: str | None = None, max_bytes: int = 10**6
) -> WeightsDownload:
    return WeightsDownload(
        root,
        engine="engine-0",
        prefix=prefix or site.base_url,
        token=BearerToken(root.parent / "token"),
        max_bytes=max_bytes,
    )


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ranges(site: WeightsSite, name: str = FIRST) -> list[str]:
    """What was asked of one file, request by request."""
    return [start for path, start in site.asked if path.endswith("/" + name)]


def test_a_version_arrives_whole_in_a_folder_named_by_version_and_content(
    site: WeightsSite, root: Path
) -> None:
    name = download_to(root, site).fetch(site.offer(12, FILES), 12, loaded=None)
    assert name.startswith("policy-000012-")
    assert [path.name for path in root.iterdir()] == [name]
    assert content_of(root / name) == FILES


def test_what_is_loaded_already_is_not_fetched_and_other_content_of_one_version_is(
    site: WeightsSite, root: Path
) -> None:
    download = download_to(root, site)
    loaded = download.fetch(site.offer(3, FILES), 3, loaded=None)
    site.asked.clear()
    assert download.fetch(site.base_url + site.path, 3, loaded=loaded) == loaded
    assert [path for path, _ in site.asked] == [site.path]
    other = download.fetch(site.offer(3, {FIRST: b"another job's"}), 3, loaded=loaded)
    assert other != loaded
    assert content_of(root / other) == {FIRST: b"another job's"}


def test_older_versions_and_parts_go_and_foreign_folders_stay(
    site: WeightsSite, root: Path, tmp_path: Path
) -> None:
    (root / "policy-000001").mkdir()
    (root / "policy-000002-0123456789abcdef.part").mkdir()
    (root / "policy-000007-link").symlink_to(tmp_path)
    download = download_to(root, site)
    download.fetch(site.offer(3, FILES), 3, loaded=None)
    name = download.fetch(site.offer(4, FILES), 4, loaded=None)
    assert {path.name for path in root.iterdir()} == {"policy-000001", "policy-000007-link", name}


def test_a_broken_download_goes_on_where_it_broke_off(site: WeightsSite, root: Path) -> None:
    site.script = [lambda request: request.cut(20_000), lambda request: request.cut(10_000)]
    name = download_to(root, site).fetch(site.offer(1, FILES), 1, loaded=None)
    assert content_of(root / name) == FILES
    assert ranges(site) == ["", "bytes=20000-", "bytes=30000-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(site: WeightsSite, root: Path) -> None:
    url = site.offer(1, FILES)
    site.script = [
        lambda request: request.cut(20_000),
        *[lambda request: request.answer(500, b"")] * (MAX_ATTEMPTS - 1),
    ]
    with pytest.raises(EngineUnavailable, match=r"could not be fetched 6 times: it was answered 5"):
        download_to(root, site).fetch(url, 1, loaded=None)
    (part,) = root.iterdir()
    assert part.name.endswith(".part")
    site.asked.clear()
    name = download_to(root, site).fetch(url, 1, loaded=None)
    assert ranges(site) == ["bytes=20000-"]
    assert content_of(root / name) == FILES


def test_a_server_without_ranges_is_read_from_the_start_again(
    site: WeightsSite, root: Path
) -> None:
    site.script = [
        lambda request: request.cut(20_000),
        lambda request: request.answer(200, request.content),
    ]
    name = download_to(root, site).fetch(site.offer(1, FILES), 1, loaded=None)
    assert content_of(root / name) == FILES


def test_another_range_than_was_asked_for_is_thrown_away(site: WeightsSite, root: Path) -> None:
    place = {"Content-Range": "bytes 0-49999/50000"}
    site.script = [
        lambda request: request.cut(20_000),
        lambda request: request.answer(206, request.content, place),
    ]
    name = download_to(root, site).fetch(site.offer(1, FILES), 1, loaded=None)
    assert content_of(root / name) == FILES
    assert ranges(site) == ["", "bytes=20000-", ""]


def flipped(request: Request) -> None:
    request.answer(200, request.content[:-1] + bytes([request.content[-1] ^ 1]))


def test_a_file_with_another_checksum_is_fetched_again(site: WeightsSite, root: Path) -> None:
    site.script = [flipped]
    name = download_to(root, site).fetch(site.offer(1, FILES), 1, loaded=None)
    assert content_of(root / name) == FILES


def test_a_file_that_never_has_its_checksum_is_never_used(site: WeightsSite, root: Path) -> None:
    site.script = [flipped] * MAX_ATTEMPTS
    with pytest.raises(EngineUnavailable, match=r"its sha256 is .*, the manifest says"):
        download_to(root, site).fetch(site.offer(1, FILES), 1, loaded=None)
    assert [path.suffix for path in root.iterdir()] == [".part"]


def test_what_an_earlier_process_left_is_used_by_its_checksum_only(
    site: WeightsSite, root: Path
) -> None:
    url = site.offer(1, FILES)
    name = download_to(root, site).fetch(url, 1, loaded=None)
    with (root / name / FIRST).open("r+b") as file:
        file.write(b"rotten")
    site.asked.clear()
    assert download_to(root, site).fetch(url, 1, loaded=None) == name
    assert content_of(root / name) == FILES
    assert [path.rpartition("/")[2] for path, _ in site.asked] == ["1", FIRST]


def test_without_the_token_nothing_is_had_and_it_is_not_tried_again(
    site: WeightsSite, root: Path
) -> None:
    (root.parent / "token").write_text("another token here")
    with pytest.raises(EngineUnavailable, match="/v1/weights/1 was answered 401"):
        download_to(root, site).fetch(site.offer(1, FILES), 1, loaded=None)
    assert len(site.asked) == 1
    assert not list(root.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://trainer:8090.evil/v1/weights/1",
        "http://trainer:8090@evil/v1/weights/1",
        "http://trainer:80901/v1/weights/1",
        "https://trainer:8090/v1/weights/1",
        "file:///etc/shadow",
        "http://trainer:8090/",
        "v1/weights/1",
        "http://trainer:8090//evil/weights",
        "http://trainer:8090/v1/../admin",
        "http://trainer:8090/v1/%2e%2e/admin",
        "http://trainer:8090/v1/weights/1?token=x",
        "http://trainer:8090/v1/weights/1#x",
        "http://trainer:8090/v1/weights/1\n",
        "http://trainer:8090/v1\\weights",
    ],
)
def test_a_url_outside_the_prefix_is_refused_and_nobody_is_asked(
    site: WeightsSite, root: Path, url: str
) -> None:
    download = download_to(root, site, prefix="http://trainer:8090")
    with pytest.raises(EngineRefused, match=r"url is .*; allowed are those below http://trainer"):
        download.fetch(url, 1, loaded=None)


def test_a_redirect_is_not_followed(site: WeightsSite, root: Path) -> None:
    with WeightsSite.started() as elsewhere:
        place = {"Location": f"{elsewhere.base_url}/v1/weights/1/{FIRST}"}
        site.script = [lambda request: request.answer(302, b"", place)]
        with pytest.raises(EngineUnavailable, match="answered 302; redirects are not followed"):
            download_to(root, site).fetch(site.offer(1, FILES), 1, loaded=None)
        assert elsewhere.asked == []


def test_weights_beyond_the_limit_are_refused_before_anything_is_written(
    site: WeightsSite, root: Path
) -> None:
    with pytest.raises(EngineRefused, match=r"have 80000 bytes; allowed are 79999 \(SRT_ROLLOUT_M"):
        download_to(root, site, max_bytes=79_999).fetch(site.offer(1, FILES), 1, loaded=None)
    assert not list(root.iterdir())


def test_more_bytes_than_the_manifest_says_are_never_kept(site: WeightsSite, root: Path) -> None:
    site.script = [lambda request: request.answer(200, bytes(200_000))] * MAX_ATTEMPTS
    with pytest.raises(EngineUnavailable, match="more than the 50000 bytes of the manifest came"):
        download_to(root, site).fetch(site.offer(1, FILES), 1, loaded=None)
    (part,) = root.iterdir()
    assert (part / FIRST).stat().st_size == 0


def test_a_full_disk_is_told_before_anything_is_fetched(
    site: WeightsSite, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(root)._replace(free=weights_download.RESERVED_BYTES + 79_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(EngineUnavailable, match="80000 bytes are to be fetched; 79000 are free"):
        download_to(root, site).fetch(site.offer(1, FILES), 1, loaded=None)
    assert ranges(site) == []


def test_a_disk_that_fills_up_meanwhile_is_told_and_what_came_is_kept(
    site: WeightsSite, root: Path
) -> None:
    url = site.offer(1, FILES)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(EngineUnavailable, match="File too large at policy-000001-"):
            download_to(root, site).fetch(url, 1, loaded=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    name = download_to(root, site).fetch(url, 1, loaded=None)
    assert content_of(root / name) == FILES
    assert ranges(site)[1].startswith("bytes=")


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (b"<html>", "the manifest is not one"),
        (b'"' + bytes(2**20) + b'"', "the manifest is larger than 1048576 bytes"),
        ({"policy_version": 2}, "the manifest is of version 2; wanted is 1"),
        ({"files": []}, "the manifest is not one: .*length >= 1"),
        ({"files": [{"name": "a.safetensors", "size": -1, "sha256": "0" * 64}]}, "size"),
        ({"files": [{"name": "a.safetensors", "size": 1, "sha256": "0"}]}, "sha256"),
        ({"files": [{"name": "../a.safetensors", "size": 1, "sha256": "0" * 64}]}, "name"),
        ({"files": [{"name": "model.bin", "size": 1, "sha256": "0" * 64}]}, "name"),
        ({"files": [{"name": "a.safetensors", "size": 1, "sha256": "0" * 64}] * 2}, "twice"),
    ],
)
def test_a_manifest_that_cannot_be_one_is_refused(
    site: WeightsSite, root: Path, manifest: bytes | dict[str, object], sentence: str
) -> None:
    url = site.offer(1, FILES)
    if isinstance(manifest, bytes):
        site.manifest = manifest
    else:
        site.manifest = json.dumps(json.loads(site.manifest) | manifest).encode()
    with pytest.raises(EngineRefused, match=sentence):
        download_to(root, site).fetch(url, 1, loaded=None)
    assert not list(root.iterdir())


def test_a_server_that_is_not_there_is_told(root: Path, site: WeightsSite) -> None:
    download = download_to(root, site, prefix="http://127.0.0.1:1")
    with pytest.raises(EngineUnavailable, match="manifest could not be fetched 6 times"):
        download.fetch("http://127.0.0.1:1/v1/weights/1", 1, loaded=None)


def test_a_pod_that_ends_gives_up_at_once(site: WeightsSite, root: Path) -> None:
    download = download_to(root, site)

    def stop_midway(request: Request) -> None:
        download.stop()
        request.cut(20_000)

    site.script = [stop_midway]
    with pytest.raises(EngineUnavailable, match="the pod is ending"):
        download.fetch(site.offer(1, FILES), 1, loaded=None)
    assert len(ranges(site)) == 1
