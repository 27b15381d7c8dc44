"""The limits at the door as an operator sets them, and whose connections are counted."""

import socket
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.http.callers import Callers
from asu_builder.http.door import LOWEST_BODY
from asu_builder.http.protocol import HttpProtocol
from asu_builder.settings import Settings
from door_rig import answer_of, door_settings, head_of, is_closed, serve
from web_scene import Scene

pytestmark = pytest.mark.waits


def test_without_settings_an_ordinary_client_has_time_and_room() -> None:
    limits = Settings()
    times = (limits.head_timeout, limits.body_timeout, limits.reader_timeout)
    assert [time.total_seconds() for time in times] == [10.0, 30.0, 60.0]
    assert limits.max_connections_per_address == 256
    assert (limits.max_head_size, limits.max_request_line) == (65536, 16384)
    assert (limits.max_body_size, limits.max_fields) == (1048576, 1000)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("10.1.2.3", None),
        ("::ffff:10.1.2.3", None),
        ("11.0.0.1", "11.0.0.1"),
        ("::ffff:11.0.0.1", "11.0.0.1"),
        ("192.0.2.7", None),
        ("192.0.2.8", "192.0.2.8"),
        ("2001:db8:1::1", None),
        ("2001:db8:2:3::1", "2001:db8:2:3::/64"),
        ("2001:db8:2:3:ffff::9", "2001:db8:2:3::/64"),
        ("2001:db8:2:4::1", "2001:db8:2:4::/64"),
        ("198.51.100.9", None),
        ("no address", "no address"),
    ],
)
def test_only_trusted_proxies_are_not_counted(host: str, name: str | None) -> None:
    """Networks, IPv4 written as IPv6, and one home's IPv6 addresses as one."""
    trusted = ("10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48", "::ffff:198.51.100.0/120")
    assert Callers((), trusted).counted_as(host) == name


def test_a_unix_socket_holds_any_number_of_connections(scene: Scene, tmp_path: Path) -> None:
    """The proxy behind it is everybody."""
    path = tmp_path / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)

    with (
        serve(scene, door_settings(max_connections_per_address=1), listener=listener) as served,
        ExitStack() as opened,
    ):
        for number in range(1, 9):
            connection = opened.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(60)
            connection.connect(str(path))
            connection.sendall(head_of())
            assert answer_of(connection)[0] == 200
            assert served.door.connections == number


@pytest.mark.parametrize(
    ("path", "kind", "limit"),
    [
        ("/api/v1/build", "application/json", 1 << 20),
        ("/api/v1/packages/preview", "application/json", 1 << 20),
        ("/build", "application/x-www-form-urlencoded", 1 << 20),
        ("/session", "application/x-www-form-urlencoded", LOWEST_BODY),
        ("/queue/acts", "application/x-www-form-urlencoded", LOWEST_BODY),
        ("/health", "text/plain", LOWEST_BODY),
        ("/nowhere", "text/plain", LOWEST_BODY),
        ("/", "text/plain", LOWEST_BODY),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_no_more_of_a_body_is_read_than_its_limit(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, path: str, kind: str, limit: int, method: str
) -> None:
    taken: list[int] = []
    on_body = HttpProtocol.on_body

    def count(protocol: HttpProtocol, body: bytes) -> None:
        taken.append(len(body))
        on_body(protocol, body)

    monkeypatch.setattr(HttpProtocol, "on_body", count)
    announced = head_of(path, f"Content-Type: {kind}", f"Content-Length: {1 << 40}", method=method)
    chunked = head_of(path, f"Content-Type: {kind}", "Transfer-Encoding: chunked", method=method)
    reads_it = method == "POST" and path not in ("/health", "/nowhere", "/")
    with serve(scene, Settings()) as served:
        without = served.ask(head_of(path, f"Content-Type: {kind}", "Content-Length: 0", method=method))[0]
        for head, piece in ((announced, b"x" * 65536), (chunked, b"10000\r\n" + b"x" * 65536 + b"\r\n")):
            taken.clear()
            status, _, _ = served.ask(head, *[piece] * 40)
            served.wait_until_alone()
            # What needs no body is answered without waiting for one.
            assert status in ({413} if reads_it else {413, without})
            assert sum(taken) <= limit + (16 << 10), "the limit, and what the parser gets at once"


@pytest.mark.parametrize("path", ["/api/v1/build", "/session"])
def test_a_body_that_trickles_gets_no_more_time(scene: Scene, path: str) -> None:
    limits = door_settings(
        head_timeout=timedelta(seconds=0.3),
        body_timeout=timedelta(seconds=0.3),
        reader_timeout=timedelta(seconds=0.3),
    )
    form = "Content-Type: application/x-www-form-urlencoded"
    with serve(scene, limits) as served, served.connect() as connection:
        connection.sendall(head_of(path, form, "Content-Length: 60000", method="POST"))
        connection.settimeout(0.02)
        answered = b""
        for _ in range(3000):
            connection.sendall(b"x")
            try:
                answered = connection.recv(65536)
                break
            except TimeoutError:
                continue
        assert answered.startswith(b"HTTP/1.1 408")
        connection.settimeout(60)
        assert is_closed(connection)
