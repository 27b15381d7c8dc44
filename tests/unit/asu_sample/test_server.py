"""The small download server."""

import http.client
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from asu_sample.server import DownloadServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DownloadServer]:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "a.json").write_text("{}")
    (tmp_path / "secret").write_text("outside")
    (root / "leak").symlink_to(tmp_path / "secret")
    with DownloadServer(root) as server:
        yield server


def ask(
    server: DownloadServer, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def test_a_file_comes_with_validators_and_is_not_sent_twice(server: DownloadServer) -> None:
    answer, body = ask(server, "/folder/a.json")
    assert (answer.status, body, answer.headers["Content-Type"]) == (200, b"{}", "application/json")
    assert answer.headers["Last-Modified"].endswith("GMT")
    tag = answer.headers["ETag"]
    again, body = ask(server, "/folder/a.json", {"If-None-Match": tag})
    assert (again.status, body, again.headers["ETag"]) == (304, b"", tag)
    (server.root / "folder" / "a.json").write_text("[1]")
    changed, body = ask(server, "/folder/a.json", {"If-None-Match": tag})
    assert (changed.status, body) == (200, b"[1]")


def test_head_has_no_body(server: DownloadServer) -> None:
    answer, body = ask(server, "/folder/a.json", method="HEAD")
    assert (answer.status, body, answer.headers["Content-Length"]) == (200, b"", "2")


@pytest.mark.parametrize(
    "path",
    ["/", "/folder", "/absent", "/../secret", "/%2e%2e/secret", "/leak", "//etc/passwd", "/folder/%00"],
)
def test_folders_absent_files_and_everything_outside_are_not_found(server: DownloadServer, path: str) -> None:
    assert ask(server, path)[0].status == 404


def test_requests_are_counted_by_path(server: DownloadServer) -> None:
    for _ in range(3):
        ask(server, "/folder/a.json?query=1")
    ask(server, "/absent")
    assert (server.requests["/folder/a.json"], server.requests["/absent"]) == (3, 1)


def test_a_broken_server_answers_500_until_it_is_mended(server: DownloadServer) -> None:
    server.broken = True
    assert ask(server, "/folder/a.json")[0].status == 500
    server.broken = False
    assert ask(server, "/folder/a.json")[0].status == 200


def test_a_slow_server_takes_its_time(server: DownloadServer) -> None:
    server.delay = timedelta(seconds=0.3)
    began = time.monotonic()
    ask(server, "/folder/a.json")
    assert time.monotonic() - began >= 0.3


def test_a_client_that_leaves_early_does_no_harm(server: DownloadServer) -> None:
    server.delay = timedelta(seconds=0.2)
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=0.05)
    connection.request("GET", "/folder/a.json")
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    server.delay = timedelta(0)
    assert ask(server, "/folder/a.json")[0].status == 200
