"""The application behind the real server, on loopback."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from asgi_client import Answer
from asu_builder.http.fast_path import FastPath
from asu_builder.http.server import server_config
from fake_builds import FakeBuilds
from ports import free_port
from web_scene import Scene


@pytest.fixture
def port(scene: Scene) -> Iterator[int]:
    """Where the application is being served."""
    port = free_port()
    server = uvicorn.Server(server_config(scene.app(), "127.0.0.1", port))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield port
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()
    assert scene.life == ["start", "stop"]


def _ask(port: int, method: str, target: str, body: bytes | None = None) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest(method, target, skip_accept_encoding=True)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        headers = tuple((name.lower(), value) for name, value in response.getheaders())
        return Answer(response.status, headers, response.read())


def test_polls_posts_and_downloads_go_through_the_real_server(
    port: int, builds: FakeBuilds, scene: Scene
) -> None:
    request_hash = builds.complete()
    scene.publish(request_hash, "image.bin", b"x" * 1_000_000)
    body = b'{"version":"24.10.5","target":"pico/nine","profile":"acme_widget-5"}'
    for _ in range(2):
        assert _ask(port, "GET", f"//api/v1/build/{request_hash}/?123").status == 200
        head = _ask(port, "HEAD", f"/api/v1/build/{request_hash}")
        assert (head.status, head.body) == (200, b"")
        assert _ask(port, "POST", "//api/v1/build", body).status == 200
    download = _ask(port, "GET", f"/store/{request_hash}/image.bin")
    assert download.header("content-length") == "1000000"
    assert download.header("transfer-encoding") is None
    assert len(download.body) == 1_000_000


def test_the_server_does_not_say_its_name_and_does_not_compress(port: int) -> None:
    answer = _ask(port, "GET", "/health")
    assert answer.status == 200
    assert answer.header("server") is None
    assert answer.header("content-encoding") is None


def test_a_body_beyond_the_limit_is_refused(port: int) -> None:
    assert _ask(port, "POST", "/api/v1/build", b" " * (3 << 20)).status == 413


def test_two_requests_in_one_breath_are_both_answered(port: int, builds: FakeBuilds) -> None:
    request = f"GET /api/v1/build/{builds.complete()} HTTP/1.1\r\nHost: x\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(request + b"\r\n" + request + b"Connection: close\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2


def test_an_address_claimed_by_a_header_is_not_believed(app: FastPath) -> None:
    config = server_config(app, "127.0.0.1", 0)
    assert config.proxy_headers is False
    assert config.access_log is False
