"""What lasts: the deadlines of the door are for what a client owes, and who watches a build owes nothing."""

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from websockets.sync.client import ClientConnection, connect

from asu_builder.domain.job import Stage
from asu_builder.http.protocol import HttpProtocol
from door_rig import Served, answer_of, door_settings, head_of, is_closed, serve
from factories import eventually
from web_scene import Scene

pytestmark = pytest.mark.waits

_HASTY = door_settings(
    head_timeout=timedelta(seconds=0.1),
    body_timeout=timedelta(seconds=0.1),
    reader_timeout=timedelta(seconds=0.1),
)
_SILENCE = 1.0
"""Ten times as long as anything may take at this door; at the default limits, 100 to 600 seconds."""
_HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


@pytest.fixture
def served(scene: Scene) -> Iterator[Served]:
    """A server whose deadlines are over almost at once."""
    with serve(scene, _HASTY) as running:
        yield running


def _watch(served: Served, name: str) -> ClientConnection:
    address = f"ws://127.0.0.1:{served.port}/api/v1/build/{name}/events"
    return connect(address, compression=None, open_timeout=60, close_timeout=60)


def test_a_websocket_on_which_nothing_is_said_for_long_stays_open(scene: Scene, served: Served) -> None:
    name = scene.builds.build(stage=Stage.BUILDING_IMAGE)
    with _watch(served, name) as watching:
        assert '"state"' in str(watching.recv(60))
        time.sleep(_SILENCE)  # that nothing happens
        assert served.door.connections == 1, "counted as long as it is open"
        scene.log.print(scene.builds.jobs[name].job.id, "still here")
        scene.notifier.notify(name)
        assert "still here" in str(watching.recv(60))
    served.wait_until_alone()
    assert served.app.requests["unknown", "unknown", 408] == 0


def test_events_and_lines_that_do_not_come_for_long_end_nothing(scene: Scene, served: Served) -> None:
    name = scene.builds.build(stage=Stage.BUILDING_IMAGE)
    for path in (f"/api/v1/build/{name}/events", f"/api/v1/build/{name}/log?follow=1"):
        with served.connect() as connection:
            connection.sendall(head_of(path))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(_SILENCE)  # that nothing happens
            assert served.door.connections == 1
            scene.log.print(scene.builds.jobs[name].job.id, f"for {path}")
            scene.notifier.notify(name)
            received = b""
            while f"for {path}".encode() not in received:
                more = connection.recv(65536)
                assert more, received
                received += more
        served.wait_until_alone()
    assert served.app.requests["unknown", "unknown", 408] == 0


def test_a_websocket_behind_an_answer_on_the_same_connection_stays_open_too(
    scene: Scene, served: Served
) -> None:
    """As a proxy sends it that keeps its connections."""
    name = scene.builds.build(stage=Stage.BUILDING_IMAGE)
    with served.connect() as connection:
        connection.sendall(head_of())
        assert answer_of(connection)[0] == 200
        connection.sendall(head_of(f"/api/v1/build/{name}/events", *_HANDSHAKE))
        assert connection.recv(65536).startswith(b"HTTP/1.1 101")
        time.sleep(_SILENCE)  # that nothing happens
        assert served.door.connections == 1
        scene.builds.complete(scene.builds.jobs[name].job.request)
        scene.notifier.notify(name)
        received = b""
        while b'"completed"' not in received:
            more = connection.recv(65536)
            assert more, received
            received += more


def test_an_open_websocket_is_one_of_its_address(scene: Scene) -> None:
    name = scene.builds.build(stage=Stage.BUILDING_IMAGE)
    limits = door_settings(
        head_timeout=timedelta(seconds=0.1),
        body_timeout=timedelta(seconds=0.1),
        reader_timeout=timedelta(seconds=0.1),
        max_connections_per_address=2,
    )
    with serve(scene, limits) as served:
        with _watch(served, name), _watch(served, name):
            time.sleep(_SILENCE)  # that they are not forgotten
            with served.connect() as third:
                assert answer_of(third)[0] == 429
        served.wait_until_alone()
        assert served.ask(head_of())[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 200000",),
        ("Transfer-Encoding: chunked",),
        ("Cookie: " + "a" * 9000,),
        tuple(f"X-{number}: 1" for number in range(130)),
    ],
    ids=("length", "chunks", "cookie", "headers"),
)
def test_a_handshake_that_cannot_be_read_is_refused_and_leaves_nothing(
    scene: Scene, served: Served, headers: tuple[str, ...]
) -> None:
    name = scene.builds.build(stage=Stage.BUILDING_IMAGE)
    for body in (b"", b"{", b"x" * 200_000):
        head = head_of(f"/api/v1/build/{name}/events", *_HANDSHAKE, *headers)
        status, document, _ = served.ask(head, body)
        assert (status, document["title"]) == (400, "Malformed request")
        served.wait_until_alone()
    with served.connect() as silent:
        assert answer_of(silent)[0] == 408, "the door still looks"


def test_an_upgrade_that_does_not_wait_for_the_answer_before_it_is_ended(
    scene: Scene, served: Served
) -> None:
    """Its protocol would take over a connection on which an answer is still due."""
    name = scene.builds.build(stage=Stage.BUILDING_IMAGE)
    events = f"/api/v1/build/{name}/events"
    with served.connect() as connection:
        connection.sendall(head_of(events) + head_of(events, *_HANDSHAKE))
        assert is_closed(connection)
    assert eventually(lambda: served.door.connections == 0)


def test_a_connection_that_cannot_be_looked_at_keeps_no_other_from_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[HttpProtocol] = []
    looks = HttpProtocol.check_deadlines

    def check(protocol: HttpProtocol, now: float) -> None:
        if protocol in broken or not broken:
            broken.append(protocol)
            raise RuntimeError("a bug")
        looks(protocol, now)

    with serve(scene, _HASTY) as served, served.connect() as first:
        monkeypatch.setattr(HttpProtocol, "check_deadlines", check)
        assert is_closed(first)
        with served.connect() as second:
            assert answer_of(second)[0] == 408
