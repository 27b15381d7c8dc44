"""A server that says what it is told to, to show that the written-out clients do break."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Canned(ThreadingHTTPServer):
    """Gives the same answer to everything but OPTIONS."""

    daemon_threads = True
    status = 200
    document: object = None
    text: bytes | None = None
    headers: Mapping[str, str] = {"Access-Control-Allow-Origin": "*"}

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: Canned

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        text = self.server.text
        body = json.dumps(self.server.document).encode() if text is None else text
        self._send(self.server.status, {"Content-Length": str(len(body)), **self.server.headers})
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def do_POST(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_OPTIONS(self) -> None:
        allowed = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": "content-type",
        }
        self._send(204, {**self.server.headers, **allowed})

    def _send(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@contextmanager
def canned() -> Iterator[Canned]:
    """A running one; what it says may be changed at any time."""
    with Canned(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
