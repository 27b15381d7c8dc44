"""A server on loopback with limits at its door, and clients that write bytes as they like."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Set
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import uvicorn
from msgspec.structs import force_setattr

from asu_builder.http.callers import Callers
from asu_builder.http.door import Door
from asu_builder.http.fast_path import FastPath
from asu_builder.http.server import server_config
from asu_builder.settings import Settings
from factories import eventually
from web_scene import Scene

_SECONDS = 60
"""The longest any of these waits for the other side."""


@dataclass
class Served:
    """A running server."""

    port: int
    app: FastPath
    door: Door
    running: Set[object]
    """The tasks of the requests that are being answered."""

    def wait_until_alone(self) -> None:
        """Returns when the server has no connection left."""
        assert eventually(lambda: self.door.connections == 0)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), _SECONDS, (source, 0))

    def ask(self, *pieces: bytes) -> tuple[int, Any, bytes]:
        """The status, the document and the head of the first answer to what is sent."""
        with self.connect() as connection:
            with contextlib.suppress(OSError):  # refused before it took all of it
                for piece in pieces:
                    connection.sendall(piece)
            return answer_of(connection)


def answer_of(connection: socket.socket) -> tuple[int, Any, bytes]:
    """One answer, read to the end that its head names; status 0 when there is none."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = _read(connection)
        if not more:
            return 0, None, received
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        (int(line[16:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
    )
    while len(body) < length and (more := _read(connection)):
        body += more
    document = json.loads(body) if b"application/json" in head else None
    return int(head[9:12]), document, head


def _read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def is_closed(connection: socket.socket) -> bool:
    """Waits for the end of a connection."""
    while _read(connection):
        pass
    return True


def door_settings(*, seconds: float = 0.0, **changes: Any) -> Settings:
    """Settings with limits that are soon met, below what an operator may choose; `seconds` sets all times."""
    settings = Settings()
    if seconds:
        span = timedelta(seconds=seconds)
        changes |= {"head_timeout": span, "body_timeout": span, "reader_timeout": span}
    for name, value in changes.items():
        force_setattr(settings, name, value)
    return settings


@contextlib.contextmanager
def serve(
    scene: Scene, limits: Settings, *, trusted: tuple[str, ...] = (), listener: socket.socket | None = None
) -> Iterator[Served]:
    """The application of a scene; connections of `trusted` proxies are not counted."""
    scene.settings = limits
    app = scene.app()
    door = Door(
        limits,
        counted_as=Callers((), trusted).counted_as,
        large_bodies=app.takes_large_bodies,
        refuse=app.turn_away,
        known_answer=app.known_answer,
    )
    with serve_app(app, door, listener=listener) as served:
        yield served


@contextlib.contextmanager
def serve_app(app: FastPath, door: Door, *, listener: socket.socket | None = None) -> Iterator[Served]:
    """An application behind a door; on loopback where no other `listener` is given."""
    listener = listener or socket.create_server(("127.0.0.1", 0), backlog=512)
    port = listener.getsockname()[1] if listener.family == socket.AF_INET else 0
    server = uvicorn.Server(server_config(app, "127.0.0.1", 0, door=door))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield Served(port, app, door, server.server_state.tasks)
    finally:
        server.should_exit = True
        thread.join(_SECONDS)
        assert not thread.is_alive()


def head_of(target: str = "/health", *headers: str, method: str = "GET") -> bytes:
    """The head of a request."""
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: x", *headers, "", "")).encode()
