"""Stands in for a trainer that serves weights, and for whatever may be wrong with one.

A thread with the standard library's server on a free port of 127.0.0.1. `WeightsSite.script` says
what happens to the next requests for files; without a script they are answered well.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "a token of the tests"

Trouble = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request; `site` is set by `WeightsSite`."""

    site: WeightsSite
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        start = self.headers.get("Range", "")
        self.site.asked.append((self.path, start))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, b"")
        elif self.path == self.site.path:
            self.answer(200, self.site.manifest)
        elif self.site.script:
            self.site.script.pop(0)(self)
        else:
            self.serve()

    @property
    def content(self) -> bytes:
        return self.site.files[self.path.rpartition("/")[2]]

    @property
    def start(self) -> int:
        return int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])

    def serve(self) -> None:
        """The file, or the range of it that was asked for."""
        total = len(self.content)
        if not self.start:
            self.answer(200, self.content)
        else:
            place = f"bytes {self.start}-{total - 1}/{total}"
            self.answer(206, self.content[self.start :], {"Content-Range": place})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def cut(self, num_bytes: int) -> None:
        """Promise the rest of the file, send less and hang up."""
        rest = self.content[self.start :]
        self.send_response(206 if self.start else 200)
        self.send_header("Content-Length", str(len(rest)))
        if self.start:
            total = len(self.content)
            self.send_header("Content-Range", f"bytes {self.start}-{total - 1}/{total}")
        self.end_headers()
        self.wfile.write(rest[:num_bytes])
        self.close_connection = True


class WeightsSite:
    """One policy version at ``<url>/v1/weights/<policy_version>``."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.base_url = f"http://127.0.0.1:{server.server_port}"
        self.asked: list[tuple[str, str]] = []
        """Path and ``Range`` of every request."""
        self.script: list[Trouble] = []
        self.files: dict[str, bytes] = {}
        self.path = ""
        self.manifest = b""

    def offer(self, policy_version: int, files: dict[str, bytes], **changes: Any) -> str:
        """Serve these files from now on; the URL. ``changes`` go into the manifest."""
        self.path = f"/v1/weights/{policy_version}"
        self.files = files
        document = {
            "policy_version": policy_version,
            "files": [
                {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in files.items()
            ],
        }
        self.manifest = json.dumps(document | changes).encode()
        return self.base_url + self.path

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[WeightsSite]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        server.daemon_threads = True
        site = cls(server)
        server.RequestHandlerClass = type("SiteRequest", (Request,), {"site": site})
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
