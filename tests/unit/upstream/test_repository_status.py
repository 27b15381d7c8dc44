"""Asking a repository's server what it answers, and which servers are never asked."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from asu_builder.upstream import server
from asu_builder.upstream.server import RepositoryStatus
from odd_server import running

PUBLIC = "https://downloads.example.org"
PUBLIC_ADDRESS = "1.1.1.1"


class _Answer(BaseHTTPRequestHandler):
    server: "Repository"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        said = self.server.answers.get(self.path, 404)
        self.send_response(302 if isinstance(said, str) else said)
        if isinstance(said, str):
            self.send_header("Location", said)
        # A body that never comes: nobody may wait for it.
        self.send_header("Content-Length", "1000000")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


class Repository(ThreadingHTTPServer):
    """Answers some paths with a status or a location, all others with 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[str] = []
        self.answers: dict[str, int | str] = {}
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"


def serving() -> AbstractContextManager[Repository]:
    """A repository's server."""
    return running(Repository())


@pytest.fixture
def repository() -> Iterator[Repository]:
    with serving() as server:
        yield server


@pytest.mark.parametrize("status", [200, 401, 403, 404, 410, 429, 500, 502, 503, 504])
def test_the_status_is_told_without_the_body(repository: Repository, status: int) -> None:
    repository.answers["/x/Packages.gz"] = status
    assert RepositoryStatus(PUBLIC).ask(f"{repository.url}/x/Packages.gz") == status


def test_redirects_within_the_own_host_are_followed(repository: Repository) -> None:
    repository.answers |= {"/a": "/b", "/b": f"{repository.url}/c", "/c": 503}
    assert RepositoryStatus(PUBLIC).ask(f"{repository.url}/a") == 503
    assert repository.asked == ["/a", "/b", "/c"]


def test_a_redirect_elsewhere_or_for_ever_says_nothing(repository: Repository) -> None:
    with serving() as other:
        repository.answers |= {"/a": f"{other.url}/secret", "/b": "/b", "/c": "file:///etc/passwd"}
        assert [RepositoryStatus(PUBLIC).ask(f"{repository.url}/{name}") for name in "abc"] == [0, 0, 0]
        assert other.asked == []
    assert repository.asked.count("/b") == 4


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://nowhere.invalid/x", "http://[::1]:1/x"])
def test_no_answer_is_no_status(url: str) -> None:
    assert RepositoryStatus(PUBLIC).ask(url) == 0


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_REPOSITORY_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert RepositoryStatus(PUBLIC).ask(f"http://127.0.0.1:{silent.getsockname()[1]}/x") == 0


def leading(real: Callable[..., object]) -> Callable[..., object]:
    """Name resolution in which the download server is public, and other names lead to this machine."""

    def resolve(host: str, port: int, *arguments: object, **more: object) -> object:
        if host == "downloads.example.org":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC_ADDRESS, port))]
        return real("127.0.0.1" if host.endswith(".example.org") else host, port, *arguments, **more)

    return resolve


def test_a_name_that_leads_to_this_machine_is_not_asked(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", leading(socket.getaddrinfo))
    repository.answers["/x"] = 503
    url = f"http://feed.example.org:{repository.port}/x"
    assert RepositoryStatus(PUBLIC).ask(url) == 0
    assert repository.asked == []
    # Where the download server is in a private network, its neighbours may be, too.
    assert RepositoryStatus("http://127.0.0.1:9").ask(url) == 503


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_in_place_of_a_name_is_the_operators_word(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", leading(socket.getaddrinfo))
    assert RepositoryStatus(PUBLIC).ask(f"http://{host}:{repository.port}/x") == 404


def test_a_number_that_only_a_resolver_takes_for_an_address_is_a_name(repository: Repository) -> None:
    """`0x7f000001` is 127.0.0.1 to many programs, and no address to the allow list."""
    status = RepositoryStatus("http://1.1.1.1")
    assert status.ask(f"http://0x7f000001:{repository.port}/x") == 0
    assert repository.asked == []


def test_the_proxy_of_the_environment_is_used(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.answers["http://feed.example.org/x"] = 403
    monkeypatch.setenv("http_proxy", repository.url)
    assert RepositoryStatus(PUBLIC).ask("http://feed.example.org/x") == 403
