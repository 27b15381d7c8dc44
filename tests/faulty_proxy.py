"""Stands in front of an S3 server and spoils its answers as a test says."""

import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from ports import free_port

Fault = Literal["", "busy", "silent", "cut", "longer"]
"""`busy`: 503 as S3 says it. `silent`: no answer. `cut`: the connection ends within the answer.
`longer`: objects look one byte longer than they are."""
_BUSY = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
)
_NOT_PASSED_ON = ("connection", "transfer-encoding", "content-length")


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on as they are, with the host they were signed for."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", free_port()), _Passing)
        self.upstream = upstream
        self.fault: Fault = ""
        self.only = ""
        """What spoils only requests whose method and path hold this."""
        self.spared = 0
        """How many more of those pass unspoilt."""
        self.seen: Counter[str] = Counter()
        """Requests by method."""
        self.paths: list[str] = []
        """Their methods and paths."""
        self.released = threading.Event()
        """Ends the silence."""

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spoil(self, fault: Fault, *, only: str = "", spared: int = 0) -> None:
        """From now on, but for the next `spared` of those requests."""
        self.only, self.spared, self.fault = only, spared, fault

    def fault_of(self, method: str, path: str) -> Fault:
        """What happens to a request."""
        self.seen[method] += 1
        self.paths.append(f"{method} {path}")
        if not self.fault or self.only not in f"{method} {path}":
            return ""
        if self.spared:
            self.spared -= 1
            return ""
        return self.fault


class _Passing(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"
    timeout = 60

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = self.server.fault_of(self.command, self.path)
        if fault == "silent":
            self.server.released.wait(60)
            self.close_connection = True
            return
        if fault == "busy":
            self._send(503, {"content-type": "application/xml"}, _BUSY, len(_BUSY))
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            text = answer.read()
            headers = {
                name: value for name, value in answer.getheaders() if name.lower() not in _NOT_PASSED_ON
            }
            size = int(answer.getheader("content-length") or len(text))
        finally:
            connection.close()
        if fault == "longer" and "Content-Range" in headers:
            part, _, whole = headers["Content-Range"].partition("/")
            headers["Content-Range"] = f"{part}/{int(whole) + 1}"
        if fault == "cut":
            self.close_connection = True
            text = text[: len(text) // 2]
        self._send(answer.status, headers, text, size)

    def _send(self, status: int, headers: dict[str, str], body: bytes, size: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@contextmanager
def faulty_proxy(upstream: int) -> Iterator[FaultyProxy]:
    """One that runs meanwhile."""
    with FaultyProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, name="faulty-proxy", daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.released.set()
            proxy.shutdown()
            thread.join()
