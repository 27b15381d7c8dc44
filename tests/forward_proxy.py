"""A forward proxy as a process of its own: `python forward_proxy.py LOG NAME=HOST:PORT …`.

Prints its port. Every request line is a line of LOG, with the credentials that came behind it. Names
are looked up among the arguments only.
"""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class _Proxy(BaseHTTPRequestHandler):
    log: Path
    names: dict[str, str]

    def do_GET(self) -> None:
        self._note()
        parts = urlsplit(self.path)
        place = self.names.get(parts.hostname or "")
        if place is None:
            self.send_error(502)
            return
        asked = HTTPConnection(place, timeout=20)
        asked.request("GET", parts.path, headers={"If-None-Match": self.headers.get("If-None-Match", "")})
        answer = asked.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name in ("ETag", "Content-Type", "Location"):
            if value := answer.headers.get(name):
                self.send_header(name, value)
        if answer.status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def do_CONNECT(self) -> None:
        self._note()
        place = self.names.get(self.path.rpartition(":")[0])
        if place is None:
            self.send_error(502)
            return
        host, _, port = place.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as far:
            self.send_response(200)
            self.end_headers()
            sides = {self.connection: far, far: self.connection}
            while ready := select.select(list(sides), [], [], 20)[0]:
                for side in ready:
                    if not (piece := side.recv(1 << 16)):
                        return
                    sides[side].sendall(piece)

    def _note(self) -> None:
        credentials = self.headers.get("Proxy-Authorization", "")
        with self.log.open("a") as log:
            log.write(f"{self.command} {self.path} {credentials}\n")

    def log_message(self, *_: object) -> None:
        """Nothing else is logged."""


@contextmanager
def forward_proxy(log: Path, **names: str) -> Iterator[int]:
    """A running one's port; `names` are those it knows, with `_` for each dot."""
    log.touch()
    known = [f"{name.replace('_', '.')}={place}" for name, place in names.items()]
    command = [sys.executable, __file__, str(log), *known]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def main(log: str, *names: str) -> None:
    """Serves until it is ended."""
    _Proxy.log = Path(log)
    _Proxy.names = dict(name.split("=", 1) for name in names)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as server:
        server.daemon_threads = True
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
