"""A WebSocket that is open: its pings, what its client says, its end, and how little is kept for it."""

import asyncio
import gc
import json
import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest

from asu_builder.domain.job import Stage
from asu_builder.http.protocol import HttpProtocol
from door_rig import Served, answer_of, door_settings, head_of, is_closed, serve
from factories import eventually
from web_scene import Scene

pytestmark = pytest.mark.waits

_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)
_ROUTE = "/api/v1/build/{request_hash}/events"


class _Socket:
    """A client that writes frames as it likes, and answers nothing by itself."""

    def __init__(self, connection: socket.socket, path: str) -> None:
        self._connection = connection
        connection.sendall(head_of(path, *_HANDSHAKE))
        self._received = b""
        while b"\r\n\r\n" not in self._received:
            self._received += connection.recv(65536)
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True) -> None:
        """One frame, masked with zeros."""
        if len(payload) < 126:
            size = bytes([mask << 7 | len(payload)])
        else:
            size = bytes([mask << 7 | 126]) + len(payload).to_bytes(2, "big")
        self._connection.sendall(bytes([fin << 7 | opcode]) + size + bytes(4 * mask) + payload)

    def receive(self, *opcodes: int) -> bytes:
        """The payload of the next frame of such a kind; others are passed over."""
        while True:
            while len(self._received) < 4:
                self._read()
            opcode, size, start = self._received[0] & 0xF, self._received[1], 2
            if size == 126:
                size, start = int.from_bytes(self._received[2:4], "big"), 4
            while len(self._received) < start + size:
                self._read()
            payload = self._received[start : start + size]
            self._received = self._received[start + size :]
            if opcode in opcodes:
                return payload

    def _read(self) -> None:
        more = self._connection.recv(65536)
        assert more, "the connection has ended"
        self._received += more


@pytest.fixture
def name(scene: Scene) -> str:
    """A build that runs."""
    return scene.builds.build(stage=Stage.BUILDING_IMAGE)


@pytest.fixture
def served(scene: Scene) -> Iterator[Served]:
    """A server whose door looks ten times a second."""
    with serve(scene, door_settings(reader_timeout=timedelta(seconds=0.4))) as running:
        yield running


@pytest.fixture
def pinging(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The same, with pings as often."""
    monkeypatch.setattr("asu_builder.http.server._PING_SECONDS", 0.1)
    with serve(scene, door_settings(reader_timeout=timedelta(seconds=0.4))) as running:
        yield running


def _events(name: str) -> str:
    return f"/api/v1/build/{name}/events"


def test_a_client_that_answers_no_ping_is_sent_away(pinging: Served, name: str) -> None:
    with pinging.connect() as connection:
        watching = _Socket(connection, _events(name))
        assert len(watching.receive(_PING)) == 4
        watching.send(_PONG, b"another's")
        assert watching.receive(_CLOSE) == (1011).to_bytes(2, "big") + b"keepalive ping timeout"
        assert is_closed(connection)
    pinging.wait_until_alone()
    assert eventually(lambda: pinging.app.requests["GET", _ROUTE, 101] == 1)


def test_a_client_that_answers_is_pinged_again_and_stays(pinging: Served, scene: Scene, name: str) -> None:
    with pinging.connect() as connection:
        watching = _Socket(connection, _events(name))
        seen = set()
        for _ in range(5):
            seen.add(ping := watching.receive(_PING))
            watching.send(_PONG, ping)
        assert len(seen) > 1
        scene.builds.complete(scene.builds.jobs[name].job.request)
        scene.notifier.notify(name)
        while json.loads(watching.receive(_TEXT))["type"] != "final":
            pass
        assert watching.receive(_CLOSE) == (1000).to_bytes(2, "big")


def test_what_a_client_says_is_thrown_away_and_its_pings_are_answered(served: Served, name: str) -> None:
    with served.connect() as connection:
        watching = _Socket(connection, _events(name))
        for _ in range(200):
            watching.send(_TEXT, b"x" * 4096)
        watching.send(_TEXT, b"in \xc3", fin=False)
        watching.send(0, b"\xbc pieces")
        watching.send(_PING, b"there?")
        assert watching.receive(_PONG, _CLOSE) == b"there?"


@pytest.mark.parametrize(
    ("payload", "mask", "code"),
    [(b"\xff\xfe", True, 1007), (b"x" * 4097, True, 1009), (b"x", False, 1002)],
    ids=("no-text", "too-large", "not-masked"),
)
def test_what_a_client_must_not_say_ends_the_connection(
    served: Served, name: str, payload: bytes, mask: bool, code: int
) -> None:
    with served.connect() as connection:
        watching = _Socket(connection, _events(name))
        watching.send(_TEXT, payload, mask=mask)
        assert int.from_bytes(watching.receive(_CLOSE)[:2], "big") == code
        assert is_closed(connection)
    served.wait_until_alone()
    assert eventually(lambda: not served.running)


def test_a_client_that_says_goodbye_is_answered_and_forgotten(served: Served, name: str) -> None:
    with served.connect() as connection:
        watching = _Socket(connection, _events(name))
        watching.receive(_TEXT)
        watching.send(_CLOSE, (1001).to_bytes(2, "big"))
        assert watching.receive(_CLOSE) == (1001).to_bytes(2, "big")
        assert is_closed(connection)
    served.wait_until_alone()
    assert eventually(lambda: not served.running)
    assert b"\nasu_builder_watchers 0.0\n" in _metrics(served)


def _metrics(served: Served) -> bytes:
    with served.connect() as connection:
        connection.sendall(head_of("/metrics", "Connection: close"))
        received = b""
        while more := connection.recv(65536):
            received += more
    return received


def _kept() -> dict[str, int]:
    gc.collect()
    objects = gc.get_objects()
    kinds = (HttpProtocol, asyncio.Task, asyncio.Event)
    return {kind.__name__: sum(isinstance(each, kind) for each in objects) for kind in kinds}


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        (_HANDSHAKE, {"HttpProtocol": 0, "Task": 1, "Event": 1}),
        # uvicorn has one event for each direction.
        ((), {"HttpProtocol": 1, "Task": 1, "Event": 2}),
    ],
    ids=("socket", "events"),
)
def test_an_open_stream_has_one_task_and_nothing_of_its_handshake(
    served: Served,
    name: str,
    headers: tuple[str, ...],
    kept: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asu_builder.http.api.watched.BUILDING_SECONDS", 3600.0)  # a look has a task too
    opened: list[socket.socket] = []

    def watch(count: int) -> None:
        for _ in range(count):
            connection = served.connect()
            opened.append(connection)
            connection.sendall(head_of(_events(name), *headers))
            received = b""
            while b'"building_image"' not in received:
                received += connection.recv(65536)

    try:
        watch(1)  # what belongs to the build, and what the first one loads
        before = _kept()
        watch(10)
        after = _kept()
        assert {kind: after[kind] - before[kind] for kind in after} == {
            kind: 10 * count for kind, count in kept.items()
        }
    finally:
        for connection in opened:
            connection.close()


def test_the_body_of_a_request_for_a_stream_is_read_before_the_answer(scene: Scene, name: str) -> None:
    limits = door_settings(body_timeout=timedelta(seconds=0.2))
    with serve(scene, limits) as served, served.connect() as connection:
        connection.sendall(head_of(_events(name), "Content-Length: 30000") + b"x" * 30_000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        with served.connect() as slow:
            slow.sendall(head_of(_events(name), "Content-Length: 30000") + b"x")
            assert answer_of(slow)[0] == 408
