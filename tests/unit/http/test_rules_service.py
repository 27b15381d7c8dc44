"""The rules service has the builder's limits at its door."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from asu_builder.http.door import LOWEST_BODY
from asu_builder.http.rules_service import rules_config
from asu_builder.settings import Settings
from door_rig import door_settings
from package_changes.service import ServiceSettings

SECONDS = 60
ASKED = {"version": "25.12.0", "target": "x86/64", "profile": "generic", "packages": ["luci"]}


@contextlib.contextmanager
def serving(limits: Settings | None = None) -> Iterator[int]:
    """A running service's port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(rules_config(ServiceSettings(), limits))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as found:
        yield found


def asked(port: int, sent: bytes) -> tuple[int, str]:
    """The status and the body of what is answered to these bytes; 0 when the connection just ends."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        with contextlib.suppress(OSError):  # refused before it took all of it
            connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
            return answer.status, answer.read().decode()
        except (http.client.HTTPException, ConnectionResetError):
            return 0, ""


def head(target: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: x", *fields, "", "")).encode()


def test_it_answers_as_before(port: int) -> None:
    body = json.dumps(ASKED).encode()
    status, text = asked(port, head("/apply", f"Content-Length: {len(body)}", method="POST") + body)
    assert (status, json.loads(text)["packages"]) == (200, ["luci"])
    assert asked(port, head("/health"))[0] == 200
    assert asked(port, head("/nowhere"))[0] == 404


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head("/health", "X: " + "a" * 70_000), 431),
        (b"GET /health HTTP/1.1\r\n" + b"X-Never: ends\r\n" * 30_000, 431),
        (head("/health?" + "a" * 17_000), 414),
        (head("/health?" + "a=&" * 1001), 400),
        (b"no HTTP at all\r\n\r\n", 400),
        (head("/apply", f"Content-Length: {2 << 20}", method="POST") + b"x" * (2 << 20), 413),
        (head("/apply", f"Content-Length: {2 << 20}", "Expect: 100-continue", method="POST"), 413),
        (head("/health", f"Content-Length: {LOWEST_BODY + 1}", "Expect: 100-continue", method="POST"), 413),
    ],
)
def test_what_is_too_large_is_refused_in_the_one_form(port: int, sent: bytes, status: int) -> None:
    found, text = asked(port, sent)
    assert found == status
    assert json.loads(text).keys() == {"status", "title", "detail"}
    assert asked(port, head("/health"))[0] == 200, "others are answered"


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /health HTTP/1.1\r\nX: ", head("/apply", "Content-Length: 9", method="POST") + b"{"],
)
def test_who_does_not_go_on_is_let_go(sent: bytes) -> None:
    with serving(door_settings(seconds=0.3)) as port:
        assert asked(port, sent)[0] in (408, 0)


def test_one_address_has_a_number_of_connections() -> None:
    with serving(door_settings(max_connections_per_address=2)) as port, contextlib.ExitStack() as opened:
        for _ in range(2):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS))
            connection.sendall(head("/health"))
            first = connection.recv(12)
            assert first == b"HTTP/1.1 200"
        assert asked(port, head("/health"))[0] == 429


def test_a_websocket_is_not_opened(port: int) -> None:
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    sent = head("/health", *upgrade, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    assert asked(port, sent)[0] == 403
