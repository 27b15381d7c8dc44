"""A small download server for the made-up world, with the conditional requests and the bad days of a real
one."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit


class DownloadServer:
    """Serves the files below `root` over HTTP while the `with` block lasts.

    `delay` is waited before each answer. While `broken` is true every answer is a 500. `requests` counts
    requests by path as asked, answered or not. Files carry ETag and Last-Modified and answer If-None-Match
    with 304; folders have no listing. `port` 0 takes any free one.
    """

    def __init__(self, root: Path, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.root = root.resolve()
        self.delay = timedelta(0)
        self.broken = False
        self.requests: Counter[str] = Counter()
        self._server = _Server(self, (host, port))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Address without trailing slash."""
        host, port = self._server.server_address[:2]
        return f"http://{host if isinstance(host, str) else host.decode()}:{port}"

    def __enter__(self) -> DownloadServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def pause(self) -> None:
        """Waits as long as `delay` says."""
        time.sleep(self.delay.total_seconds())

    def locate(self, path: str) -> Path | None:
        """The file a request path means; None for folders, absent files and everything outside of `root`."""
        if "\0" in path:
            return None
        file = (self.root / path.lstrip("/")).resolve()
        return file if file.is_relative_to(self.root) and file.is_file() else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A test may leave while a response is delayed; do not wait for it.
    block_on_close = False

    def __init__(self, owner: DownloadServer, address: tuple[str, int]) -> None:
        super().__init__(address, _Download)
        self.owner = owner

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed in the middle is none of this server's errors."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Download(BaseHTTPRequestHandler):
    """One connection. Method names are the standard library's."""

    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "asu-builder-sample"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: tests read `requests` instead."""

    def _answer(self, *, with_body: bool) -> None:
        owner = self.server.owner
        path = unquote(urlsplit(self.path).path)
        owner.requests[path] += 1
        owner.pause()
        file = None if owner.broken else owner.locate(path)
        if file is None:
            status = HTTPStatus.INTERNAL_SERVER_ERROR if owner.broken else HTTPStatus.NOT_FOUND
            self._send(status, {"Content-Type": "text/plain"}, b"%d sample\n" % status if with_body else b"")
            return
        data = file.read_bytes()
        tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Last-Modified": formatdate(file.stat().st_mtime, usegmt=True)}
        known = [text.strip().removeprefix("W/") for text in self.headers.get("If-None-Match", "").split(",")]
        if tag in known or "*" in known:
            self._send(HTTPStatus.NOT_MODIFIED, headers, b"")
            return
        kind = "application/json" if file.suffix == ".json" else "application/octet-stream"
        headers.update({"Content-Type": kind, "Content-Length": str(len(data))})
        self._send(HTTPStatus.OK, headers, data if with_body else b"")

    def _send(self, status: HTTPStatus, headers: dict[str, str], body: bytes) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers and status is not HTTPStatus.NOT_MODIFIED:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client lost patience, which is what delays are for
