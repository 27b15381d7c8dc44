"""What the server takes from a client, how long it waits, and how many connections one address has."""

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest

from asu_builder.http.door import LOWEST_BODY
from asu_builder.settings import Settings
from door_rig import Served, answer_of, door_settings, head_of, is_closed, serve
from fake_builds import FakeBuilds, a_body
from web_scene import Scene

pytestmark = pytest.mark.waits

_KIB = 1 << 10


@pytest.fixture
def served(scene: Scene) -> Iterator[Served]:
    """A server with the default limits."""
    with serve(scene, Settings()) as running:
        yield running


_FORM = "Content-Type: application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    "head",
    [
        head_of("/health", "X-Long: " + "a" * (65 * _KIB)),
        head_of("/health", *(f"X-{number}: {'a' * 100}" for number in range(700))),
        head_of("/health", *("a:" for _ in range(20_000))),
        head_of("/health", "X-Long: " + "a" * (3000 * _KIB)),
        head_of("/health", "X-" + "a" * (200 * _KIB) + ": 1"),
        head_of("/nowhere", "Cookie: " + "a=b; " * 15_000),
        b"GET /health HTTP/1.1\r\nX-Never: " + b"a" * (300 * _KIB),
        b"GET /health HTTP/1.1\r\n" + b"X-Never: ends\r\n" * 30_000,
        head_of(
            "/api/v1/build/x/events", "Upgrade: websocket", "Connection: Upgrade", "X: " + "a" * (65 * _KIB)
        ),
        head_of("/api/v1/build", "Transfer-Encoding: chunked", method="POST")
        + b"0\r\nX-Trailer: "
        + b"a" * (200 * _KIB),
        head_of("/api/v1/build", "Transfer-Encoding: chunked", method="POST") + b"1;" + b"a" * (200 * _KIB),
    ],
    ids=(
        "long",
        "many",
        "tiny",
        "huge",
        "name",
        "cookie",
        "endless",
        "endless-lines",
        "socket",
        "trailer",
        "chunk",
    ),
)
def test_a_head_that_is_too_large_is_431(served: Served, head: bytes) -> None:
    status, document, answer = served.ask(head)
    assert (status, document["status"]) == (431, 431)
    assert "65536" in document["detail"]
    assert b"x-request-id: " in answer
    assert b"access-control-allow-origin: *" in answer
    assert b"connection: close" in answer


def test_a_head_just_below_the_limit_is_taken(served: Served) -> None:
    assert served.ask(head_of("/health", "X-Long: " + "a" * (63 * _KIB)))[0] == 200


@pytest.mark.parametrize(
    "target", ["/health?" + "a" * (17 * _KIB), "/" + "a/" * (9 * _KIB), "/" + "%41" * (6 * _KIB)]
)
def test_an_address_that_is_too_long_is_414(served: Served, target: str) -> None:
    assert served.ask(head_of(target))[0] == 414
    assert served.ask(head_of(target)[: 17 * _KIB])[0] == 414, "before its end has come"


def test_an_address_just_below_the_limit_is_taken(served: Served) -> None:
    assert served.ask(head_of("/health?" + "a" * (16 * _KIB - 64)))[0] == 200


@pytest.mark.parametrize("path", ["/health", "/build", "/api/v1/jobs", "/nowhere", "/"])
def test_more_fields_than_are_looked_at_are_refused(served: Served, path: str) -> None:
    status, document, _ = served.ask(head_of(path + "?" + "a=&" * 1001))
    assert (status, document["title"]) == (400, "Too many fields")


def test_a_form_has_as_few_fields(served: Served) -> None:
    for path in ("/build", "/session", "/session/end", "/queue/acts"):
        body = b"a=&" * 3000
        form = (_FORM, f"Content-Length: {len(body)}")
        with served.connect() as connection:
            connection.sendall(head_of(path, *form, method="POST") + body)
            head = b""
            while b"\r\n" not in head:
                head += connection.recv(65536)
        assert head.startswith(b"HTTP/1.1 400"), path


@pytest.mark.parametrize(
    ("path", "limit"), [("/api/v1/build", 1 << 20), ("//api/v1/build/", 1 << 20), ("/session", LOWEST_BODY)]
)
def test_who_asks_before_it_sends_a_body_is_told_at_once(served: Served, path: str, limit: int) -> None:
    ask = (f"Content-Length: {limit + 1}", "Expect: 100-continue")
    status, document, _ = served.ask(head_of(path, *ask, method="POST"))
    assert status == 413
    assert f"at most {limit} bytes" in document["detail"]


def test_a_body_at_the_limit_is_read(served: Served, builds: FakeBuilds) -> None:
    body = b" " * (1 << 20)
    for path in ("/api/v1/build", "/api/v1/packages/preview"):
        head = head_of(path, f"Content-Length: {len(body)}", method="POST")
        assert served.ask(head, body)[0] == 422, path


def test_large_bodies_together_have_a_limit_too(scene: Scene) -> None:
    with serve(scene, door_settings(max_body_size=16 << 20)) as served, contextlib.ExitStack() as opened:
        head = head_of("/api/v1/build", f"Content-Length: {16 << 20}", method="POST")
        waiting = []
        for _ in range(6):
            connection = opened.enter_context(served.connect())
            with contextlib.suppress(OSError):
                connection.sendall(head + b" " * (15 << 20))
            waiting.append(connection)
        assert served.ask(head_of("/health"))[0] == 200
        assert answer_of(waiting[-1])[0] == 503


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        head_of("example.org:443", method="CONNECT"),
        head_of("http://[x"),
    ],
    ids=("tls", "connect", "address"),
)
def test_what_is_no_http_is_told_so(served: Served, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    status, document, _ = served.ask(sent)
    assert (status, document["title"]) == (400, "Malformed request")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


_H2C = ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")


def _posts(body: bytes) -> dict[str, bytes]:
    """The same request in the forms in which a body can come."""
    length = f"Content-Length: {len(body)}"
    head = head_of("/api/v1/build", *_H2C, length, method="POST")
    chunked = head_of("/api/v1/build", *_H2C, "Transfer-Encoding: chunked", method="POST")
    asking = head_of("/api/v1/build", *_H2C, length, "Expect: 100-continue", method="POST")
    return {
        "length": head + body,
        "chunked": chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
        "large-head": head[:-2] + b"X-Long: " + b"a" * (40 * _KIB) + b"\r\n\r\n" + body,
        "expect": asking + body,
    }


@pytest.mark.parametrize("form", _posts(b""))
@pytest.mark.parametrize("piece", [1 << 20, 700, 7], ids=("at-once", "in-pieces", "in-small-pieces"))
def test_who_asks_for_another_protocol_is_answered_as_if_not(served: Served, form: str, piece: int) -> None:
    sent = _posts(json.dumps(a_body(packages=["vim"])).encode())[form]
    if form == "large-head" and piece < 100:
        piece = 100
    with served.connect() as connection:
        for _ in range(2):
            head, _, rest = sent.partition(b"\r\n\r\n")
            for part in (head + b"\r\n\r\n", rest):
                for start in range(0, len(part), piece):
                    connection.sendall(part[start : start + piece])
                if form == "expect" and part is not rest:
                    assert answer_of(connection)[0] == 100
            status, document, _ = answer_of(connection)
            assert (status, document["request"]["packages"]) == (202, ["vim"])
        connection.sendall(head_of("/health"))
        assert answer_of(connection)[0] == 200, "the connection goes on"


def test_requests_behind_one_that_asks_for_another_protocol_are_answered_in_order(served: Served) -> None:
    first, second = (json.dumps(a_body(packages=[name])).encode() for name in ("vim", "tmux"))
    with served.connect() as connection:
        connection.sendall(_posts(first)["length"] + _posts(second)["length"])
        answers: list[bytes] = []
        received = b""
        while len(answers) < 2:
            received += connection.recv(65536)
            answers = re.findall(rb'"packages":\["(\w+)"\]', received)
    assert answers == [b"vim", b"tmux"]


def test_limits_hold_for_who_asks_for_another_protocol(served: Served) -> None:
    long = head_of("/health", *_H2C, "X-Long: " + "a" * (65 * _KIB))
    assert served.ask(long)[0] == 431
    assert served.ask(head_of("/" + "a" * (17 * _KIB), *_H2C))[0] == 414
    body = b"[" * (5 << 20)
    assert served.ask(_posts(body)["length"])[0] == 413


_HASTY = door_settings(
    head_timeout=timedelta(seconds=0.2),
    body_timeout=timedelta(seconds=0.2),
    reader_timeout=timedelta(seconds=0.2),
)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n\r\n",
        b"GET /health HT",
        b"GET /health HTTP/1.1\r\nHost: x\r\n",
        head_of("/api/v1/build", "Content-Length: 9", method="POST") + b"{",
        head_of("/session", _FORM, "Content-Length: 9", method="POST"),
        head_of("/api/v1/packages/preview", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n",
    ],
    ids=("silent", "lines", "line", "head", "body", "form", "chunks"),
)
def test_who_does_not_finish_in_time_gets_408(scene: Scene, sent: bytes) -> None:
    with serve(scene, _HASTY) as served, served.connect() as connection:
        connection.sendall(sent)
        status, document, _ = answer_of(connection)
        assert (status, document["title"]) == (408, "Too slow")
        assert is_closed(connection)
        assert served.app.requests["unknown", "unknown", 408] == 1


def test_a_head_that_trickles_gets_no_more_time(scene: Scene) -> None:
    with serve(scene, _HASTY) as served, served.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        connection.settimeout(0.02)
        answered = b""
        for _ in range(1000):
            connection.sendall(b"X: 1\r\n")
            with contextlib.suppress(TimeoutError):
                answered = connection.recv(65536)
                break
        assert answered.startswith(b"HTTP/1.1 408")


def test_a_second_request_that_stops_in_its_head_is_ended(scene: Scene) -> None:
    for rest in (b"GET /he", b"\r\n"):
        with serve(scene, _HASTY) as served, served.connect() as connection:
            connection.sendall(head_of())
            assert answer_of(connection)[0] == 200
            connection.sendall(rest)
            assert answer_of(connection)[0] == 408


def test_a_reader_that_stopped_is_closed(scene: Scene, builds: FakeBuilds) -> None:
    request_hash = builds.complete()
    scene.publish(request_hash, "image.bin", b"x" * (32 << 20))
    with serve(scene, _HASTY) as served, served.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head_of(f"/store/{request_hash}/image.bin"))
        assert connection.recv(1024).startswith(b"HTTP/1.1 200")
        served.wait_until_alone()


def test_an_address_has_a_limited_number_of_connections(scene: Scene) -> None:
    limits = door_settings(max_connections_per_address=3)
    with serve(scene, limits) as served, contextlib.ExitStack() as opened:
        own = [opened.enter_context(served.connect()) for _ in range(3)]
        for connection in own:
            connection.sendall(head_of())
            assert answer_of(connection)[0] == 200
        with served.connect() as further:
            status, document, _ = answer_of(further)
            assert (status, document["status"]) == (429, 429)
            assert is_closed(further)
        with served.connect("127.0.0.2") as other:
            other.sendall(head_of())
            assert answer_of(other)[0] == 200
        for connection in own:
            connection.close()
        served.wait_until_alone()
        assert served.ask(head_of())[0] == 200


def test_a_trusted_proxy_is_not_counted(scene: Scene) -> None:
    with serve(scene, door_settings(max_connections_per_address=1), trusted=("127.0.0.0/8",)) as served:
        with contextlib.ExitStack() as opened:
            for _ in range(10):
                connection = opened.enter_context(served.connect())
                connection.sendall(head_of())
                assert answer_of(connection)[0] == 200


def test_many_silent_connections_keep_no_client_out(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than there are descriptors for, from several addresses: the oldest silent one gives way."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (300, 300))
    with (
        serve(scene, door_settings(max_connections_per_address=64)) as served,
        contextlib.ExitStack() as opened,
    ):
        silent = [
            opened.enter_context(served.connect(f"127.0.0.{host}")) for host in range(2, 6) for _ in range(60)
        ]
        assert served.ask(head_of())[0] == 200
        assert is_closed(silent[0])


def test_the_connection_of_a_websocket_is_counted_until_its_end(scene: Scene) -> None:
    handshake = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )
    with serve(scene, door_settings(max_connections_per_address=1)) as served:
        for _ in range(3):
            with served.connect() as connection:
                connection.sendall(head_of("/nowhere", *handshake))
                assert answer_of(connection)[0] == 404
                assert is_closed(connection)
            served.wait_until_alone()


def test_pipelined_requests_are_answered_before_what_follows_them_is_refused(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(head_of() + head_of())
        first = b""
        while first.count(b"HTTP/1.1 200") < 2:
            first += connection.recv(65536)
        connection.sendall(b"nonsense\r\n\r\n")
        assert answer_of(connection)[0] == 400


def test_a_host_or_origin_that_is_no_address_is_no_bug(served: Served) -> None:
    for path in ("/", "/build", "/queue", "/docs"):
        status, _, _ = served.ask(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: [x\r\n\r\n")
        assert status == 200, path
    form = (_FORM, "Content-Length: 0", "Origin: http://[x/")
    assert served.ask(head_of("/session", *form, method="POST"))[0] == 403


@pytest.mark.parametrize("path", ["/api/v1/packages/preview", "/session", "/build", "/api/v1/build"])
def test_a_client_that_leaves_in_its_body_is_no_bug(
    served: Served, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    with served.connect() as connection:
        connection.sendall(head_of(path, _FORM, "Content-Length: 9", method="POST") + b"a=")
    served.wait_until_alone()
    assert served.ask(head_of())[0] == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
