"""The documentation below /help, where there is one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from asu_builder.http.pages import help as documentation
from web_scene import Scene


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AsgiClient]:
    """A service with a small site, beside which lies a secret."""
    site = tmp_path / "help"
    (site / "_static").mkdir(parents=True)
    (site / "index.html").write_text("<title>Documentation</title>" + "x" * 2000)
    (site / "_static" / "a.css").write_text("a {}")
    (site / "environment.pickle").write_text("for Sphinx")
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr(documentation.HelpSite.__init__, "__defaults__", (site,))
    with AsgiClient(Scene(tmp_path / "store").app()) as running:
        yield running


def test_the_site_is_served_and_linked_where_it_is(client: AsgiClient) -> None:
    assert client.get("/help").header("location") == "/help/index.html"
    page = client.get("/help/index.html", {"accept-encoding": "gzip"})
    assert (page.status, page.header("content-encoding")) == (200, "gzip")
    assert client.get("/help/index.html", {"if-none-match": '"' + "0" * 32 + '"'}).status == 200
    etag = client.get("/help/index.html").header("etag") or ""
    assert client.get("/help/index.html", {"if-none-match": etag}).status == 304
    assert client.get("/help/_static/a.css").header("content-type") == "text/css; charset=utf-8"
    assert b'href="/help/index.html"' in client.get("/").body


@pytest.mark.parametrize(
    "path", ["/help/none.html", "/help/environment.pickle", "/help/../secret.txt", "/help/%2e%2e/secret.txt"]
)
def test_nothing_else_is_served(client: AsgiClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status == 404 and b"secret" not in answer.body


def test_an_installation_without_it_says_so_and_has_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documentation.HelpSite.__init__, "__defaults__", (tmp_path / "none",))
    with AsgiClient(Scene(tmp_path).app()) as client:
        answer = client.get("/help", {"accept": "text/html"})
        assert answer.status == 404 and b"make docs" in answer.body
        assert b"/help" not in client.get("/").body
