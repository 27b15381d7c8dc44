"""Servers that are known, to be measured in the same rounds: bare ASGI, the same bytes from it, and nginx."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.process import Server, free_port, running, serving

_ANSWER_SECONDS = 30.0
_NGINX_PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))


@contextlib.contextmanager
def hello(kind: str = "raw") -> Iterator[Server]:
    """A bare ASGI application that says hello: `raw`, or `starlette`."""
    port = free_port()
    with serving(["bench.hello", kind, str(port)], port) as server:
        yield server


@contextlib.contextmanager
def same_bytes(server: Server, request: bytes) -> Iterator[Server]:
    """A raw ASGI application that answers everything with what `server` now answers to `request`."""
    port = free_port()
    with tempfile.NamedTemporaryFile(prefix="asu-bench-") as file:
        file.write(answer_to(server.port, request))
        file.flush()
        with serving(["bench.hello", "raw", str(port), file.name], port) as known:
            yield known


@contextlib.contextmanager
def nginx(root: Path) -> Iterator[Server]:
    """nginx with one worker that sends the files below `root` by sendfile, without a log.

    Raises `FileNotFoundError` where it is not installed.
    """
    program = shutil.which("nginx", path=_NGINX_PLACES)
    if program is None:
        raise FileNotFoundError("nginx is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
        temporary = "\n".join(
            f"  {kind}_temp_path {name}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = Path(name) / "nginx.conf"
        configuration.write_text(
            f"""daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid {name}/nginx.pid;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
{temporary}
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""
        )
        with running([program, "-e", "stderr", "-p", name, "-c", str(configuration)], port) as server:
            yield server


def answer_to(port: int, request: bytes) -> bytes:
    """Status, headers and body that answer a request. Raises `OSError` where they do not arrive whole."""
    with socket.create_connection(("127.0.0.1", port), _ANSWER_SECONDS) as connection:
        connection.sendall(request)
        reader = connection.makefile("rb")
        lines = []
        while (line := reader.readline()) != b"\r\n":
            if not line:
                raise ConnectionResetError("no whole answer to take the bytes of")
            lines.append(line)
        lengths = [int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")]
        length = 0 if request.startswith(b"HEAD") or not lengths else lengths[0]
        body = reader.read(length)
        if len(body) < length:
            raise ConnectionResetError("no whole answer to take the bytes of")
    return b"".join((*lines, b"\r\n", body))
