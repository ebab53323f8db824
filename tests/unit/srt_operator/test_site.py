"""The place a run lives in: locks, secrets kept over a resume, addresses, models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from srt_common.errors import ConfigurationError
from srt_operator.backends import models, site
from srt_operator.backends.site import free_ports, locked, prepared, site_of
from srt_operator.layout import RunLayout
from srt_operator.resources import SRTJob
from support.jobs import make_job


@pytest.fixture
def job(tmp_path: Path) -> SRTJob:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    return make_job(spec__model__uri=f"file://{model}")


def test_a_run_folder_has_one_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "LOCK_PATIENCE_SECONDS", 0.2)
    layout = RunLayout(tmp_path)
    refused = pytest.raises(ConfigurationError, match="in use by another srt run")
    with locked(layout), refused, locked(layout):
        pass
    with locked(layout):
        pass


def test_a_lock_lives_as_long_as_anyone_who_inherited_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "LOCK_PATIENCE_SECONDS", 0.2)
    layout = RunLayout(tmp_path)
    with locked(layout) as descriptor:
        inherited = os.dup(descriptor)
    with pytest.raises(ConfigurationError), locked(layout):
        pass
    os.close(inherited)
    with locked(layout):
        pass


def test_secrets_are_private_and_kept(tmp_path: Path, job: SRTJob) -> None:
    layout = RunLayout(tmp_path / "run")
    with prepared(job, layout):
        first = layout.token.read_text(), layout.cache_secret.read_text()
    with prepared(job, layout):
        assert (layout.token.read_text(), layout.cache_secret.read_text()) == first
    assert len(set(first)) == 2
    assert all(1 <= len(secret) <= 64 for secret in first)
    for file in (layout.token, layout.cache_secret):
        assert file.stat().st_mode & 0o777 == 0o600
    assert layout.private.stat().st_mode & 0o777 == 0o700


def test_sockets_have_short_paths_in_a_private_folder_that_goes_away(
    tmp_path: Path, job: SRTJob
) -> None:
    deep = RunLayout(tmp_path / ("d" * 120))
    with prepared(job, deep) as made:
        path = Path(made.server_url.removeprefix("unix://"))
        assert len(os.fsencode(path)) <= 100
        assert path.parent == made.scratch
        assert made.scratch.stat().st_mode & 0o777 == 0o700
    assert not made.scratch.exists()


def test_what_a_killed_start_left_is_removed_by_the_next(tmp_path: Path, job: SRTJob) -> None:
    layout = RunLayout(tmp_path / "run")
    with prepared(job, layout) as first:
        (first.scratch / "leftover").write_text("")
        with prepared(job, layout) as second:
            assert not first.scratch.exists()
            assert second.scratch.exists()


def test_only_our_own_folders_are_removed(tmp_path: Path, job: SRTJob) -> None:
    layout = RunLayout(tmp_path / "run")
    with prepared(job, layout):
        pass
    precious = tmp_path / "srt-run-precious"
    precious.mkdir()
    layout.scratch_record.write_text(str(precious))
    with prepared(job, layout):
        assert precious.exists()


def test_a_given_server_is_used_and_none_is_started(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    job = make_job(
        spec__model__uri=f"file://{tmp_path}",
        spec__treeCache__template__redis="{endpoint: 'unix:///x.sock'}",
    )
    made = site_of(job, RunLayout(tmp_path / "run"), scratch=tmp_path)
    assert made.server_command == ()
    assert (made.server_url, made.broker_url) == ("unix:///x.sock", "redis+socket:///x.sock")


def test_each_process_that_serves_has_a_port_of_its_own(tmp_path: Path, job: SRTJob) -> None:
    made = site_of(job, RunLayout(tmp_path / "run"), scratch=tmp_path)
    assert set(made.endpoints) == {"tree-cache-0", "rollout-0", "rollout-1"}
    assert len(set(made.endpoints.values())) == 3
    assert free_ports([]) == {}


def test_the_examples_of_the_images_are_the_installed_ones() -> None:
    found = models.local_folder("file:///data/examples/tiny-math/model")
    assert found == models.examples_folder() / "tiny-math" / "model"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"allowed is a folder with a config\.json"):
        models.local_folder(f"file://{tmp_path}")


def test_a_model_of_the_hub_comes_from_its_cache_without_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        (tmp_path / "config.json").write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert models.local_folder("hf://org/name") == tmp_path
    [(name, patterns)] = asked
    assert name == "org/name"
    assert not any(pattern.endswith((".py", ".bin", ".pt", ".pkl", "*")) for pattern in patterns)


def test_a_hub_that_cannot_be_reached_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ConfigurationError, match="it cannot be fetched: no network"):
        models.local_folder("hf://org/name")
