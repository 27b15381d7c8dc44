"""A download server that answers some paths as a test says, and sends no ETag."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

Server = TypeVar("Server", bound=ThreadingHTTPServer)

HALF = 0
"""Instead of a status: the first half of the document."""


class OddServer(ThreadingHTTPServer):
    """Serves `root`; `odd` maps the end of a path to a status, to `HALF`, or to a whole body."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.root = root
        self.odd: dict[str, int | bytes] = {}
        self.requests: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str) -> tuple[int, bytes]:
        """Status and body of a path."""
        self.requests[path] += 1
        file = self.root / path.lstrip("/")
        body = file.read_bytes() if file.is_file() else None
        for end, said in self.odd.items():
            if path.endswith(end):
                if isinstance(said, bytes):
                    return 200, said
                if said != HALF:
                    return said, b""
                return 200, (body or b"")[: len(body or b"") // 2]
        return (404, b"") if body is None else (200, body)


class _Answer(BaseHTTPRequestHandler):
    server: OddServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, body = self.server.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Lets a server of a test's own answer in a thread, and ends it."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def odd_server(root: Path) -> AbstractContextManager[OddServer]:
    """A running one."""
    return running(OddServer(root))
