"""What a build may fetch, where servers may send it, and which addresses are never connected to."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from asu_builder.domain.addresses import Proxies
from asu_builder.proxy import fetching
from asu_builder.proxy.fetching import Allowed, Direct, Failed, Job, Refused

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def a_server(answer: Answer) -> Iterator[int]:
    """The port of a server on the loopback that answers as it is told."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def says(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def a_job(*urls: str) -> Job:
    job = Job("job")
    job.allow(urls)
    return job


def near(*ports: int, **more: Any) -> Direct:
    """One whose operator has named servers of this machine."""
    return Direct(Allowed(private=tuple(("127.0.0.1", port) for port in ports), **more))


def read(direct: Direct, job: Job, url: str, *, keeps: bool = False) -> bytes:
    stream = direct.fetch(job, url)
    try:
        return b"".join(stream.chunks)
    finally:
        stream.close()
        if not keeps:
            direct.close()


@pytest.mark.parametrize(
    ("asked", "fetched"),
    [
        ("http://a.example:443/releases/x/y.ipk", "https://a.example/releases/x/y.ipk"),
        ("http://a.example:443/releases/x", "https://a.example/releases/x"),
        ("http://b.example/feed/P", "http://b.example/feed/P"),
        ("http://b.example:80/feed/P", "http://b.example/feed/P"),
        ("http://c.example:8443/P", "https://c.example:8443/P"),
        ("http://[2001:db8::1]:443/P", "https://[2001:db8::1]/P"),
    ],
)
def test_the_port_tells_which_address_is_meant(asked: str, fetched: str) -> None:
    job = a_job(
        "https://a.example/releases/x",
        "http://b.example/feed/",
        "https://c.example:8443",
        "https://[2001:db8::1]/",
    )
    assert job.find(asked) == fetched


@pytest.mark.parametrize(
    "asked",
    [
        "http://a.example:443/releases/xy",
        "http://a.example:443/releases/x/../y",
        "http://a.example:443/releases/x/%2e%2e/y",
        "http://a.example:443/releases//x/y",
        "http://a.example:443/",
        "http://a.example/releases/x/y",
        "http://a.example:444/releases/x/y",
        "http://a.example.evil.example:443/releases/x",
        "http://user@a.example:443/releases/x",
        "http://a.example:443/releases/x?y",
        "/releases/x",
        "ftp://a.example/releases/x",
        "http://a.example:443\t/releases/x",
        "",
    ],
)
def test_nothing_else_is_fetched(asked: str) -> None:
    with pytest.raises(Refused):
        a_job("https://a.example/releases/x").find(asked)


def test_a_connection_is_used_again_and_made_again_when_it_was_closed() -> None:
    peers: list[Any] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        peers.append(handler.client_address)
        says(b"body")(handler)
        if len(peers) == 2:
            handler.close_connection = True  # without a word

    with a_server(answer) as port:
        direct, url = near(port), f"http://127.0.0.1:{port}/x"
        for _ in range(4):
            assert read(direct, a_job(url), url, keeps=True) == b"body"
        direct.close()
    assert peers[0] == peers[1] != peers[2] == peers[3]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.1.2.3", "169.254.169.254"])
def test_an_address_that_is_not_public_is_not_connected_to(host: str) -> None:
    with a_server(says(b"secret")) as port:
        url = f"http://{host}:{port}/x"
        with pytest.raises(Refused, match="no public address"):
            Direct(Allowed()).fetch(a_job(url), url)
        # What the operator has named is one port of a host.
        with pytest.raises(Refused, match="no public address"):
            near(port + 1).fetch(a_job(url), url)


@pytest.mark.parametrize("inner", ["100.64.0.1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "fe80::1"])
def test_a_name_is_judged_by_the_address_it_leads_to(monkeypatch: pytest.MonkeyPatch, inner: str) -> None:
    family = socket.AF_INET6 if ":" in inner else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (inner, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(Refused, match="no public address"):
        Direct(Allowed()).fetch(a_job("http://a.example/"), "http://a.example/x")


def test_the_very_address_that_was_looked_at_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    with a_server(says(b"body")) as port:

        def once(host: str, *_: object, **__: object) -> object:
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", once)
        direct = Direct(Allowed(private=(("mirror.example", 80),)))
        assert read(direct, a_job("http://mirror.example/"), "http://mirror.example/x") == b"body"
    assert asked == ["mirror.example"]


def test_redirects_are_followed_to_known_hosts_only() -> None:
    with a_server(says(b"other")) as other:
        with a_server(says(b"", 302, Location=f"http://127.0.0.1:{other}/y")) as port:
            url = f"http://127.0.0.1:{port}/x"
            with pytest.raises(Refused, match="not followed"):
                near(port, other).fetch(a_job(url), url)
            assert read(near(port, other), a_job(url, f"http://127.0.0.1:{other}/z"), url) == b"other"
            named = near(port, other, redirects=(("127.0.0.1", other),))
            assert read(named, a_job(url), url) == b"other"
            # The host is known, and leads where nobody may go.
            with pytest.raises(Refused, match="no public address"):
                near(port, redirects=(("127.0.0.1", other),)).fetch(a_job(url), url)


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "http://u:p@127.0.0.1/", "http://[", "gopher://x"]
)
def test_a_redirect_that_is_no_place_of_ours_is_refused(location: str) -> None:
    with a_server(says(b"", 301, Location=location)) as port:
        url = f"http://127.0.0.1:{port}/x"
        with pytest.raises(Refused) as refused:
            near(port).fetch(a_job(url), url)
    assert "p@" not in str(refused.value)


def test_redirects_end() -> None:
    with a_server(says(b"", 302, Location="/x")) as port:
        url = f"http://127.0.0.1:{port}/x"
        with pytest.raises(Failed, match="on and on"):
            near(port).fetch(a_job(url), url)


def test_half_a_file_is_no_file() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        says(b"half", Content_Length="8")(handler)
        handler.close_connection = True

    with a_server(answer) as port:
        url = f"http://127.0.0.1:{port}/x"
        with pytest.raises(Failed, match="broke off after 4 of 8"):
            read(near(port), a_job(url), url)


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"),
        lambda handler: handler.connection.shutdown(socket.SHUT_RDWR),
        lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n"),
    ],
)
def test_a_server_that_speaks_garbage_has_not_answered(answer: Answer) -> None:
    with a_server(answer) as port:
        url = f"http://127.0.0.1:{port}/x"
        with pytest.raises(Failed, match="does not answer"):
            near(port).fetch(a_job(url), url)


def test_a_slow_server_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Failed, match="no answer in time"):
            near(port).fetch(a_job(), f"http://127.0.0.1:{port}/x")


def test_behind_a_proxy_of_the_operator_the_list_of_hosts_decides() -> None:
    asked: list[tuple[str, str | None]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append((handler.path, handler.headers.get("Proxy-Authorization")))
        says(b"by proxy")(handler)

    with a_server(answer) as port:
        proxies = Proxies({"http": f"http://user:s%40cret@127.0.0.1:{port}"})
        url = "http://mirror.invalid/x"
        assert read(Direct(Allowed(proxies=proxies)), a_job(url), url) == b"by proxy"
    assert asked == [(url, "Basic dXNlcjpzQGNyZXQ=")]


def test_a_build_that_provokes_sentences_gets_some() -> None:
    told: list[str] = []
    job = Job("job", told.append)
    for number in range(1000):
        job.tell(f"sentence {number % 500}")
    assert len(told) == 41
    assert told[-1] == "more is not told"
