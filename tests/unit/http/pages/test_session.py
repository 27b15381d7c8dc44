"""An operator signs in at a page; nobody else's page can use it."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner

from asgi_client import Answer, AsgiClient
from asu_builder.cli import main
from asu_builder.domain.access import Right, Token, digest_of
from web_scene import Scene

TOKEN = "secret-of-ann"
FORM = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[AsgiClient]:
    scene = Scene(tmp_path)
    scene.tokens = (Token("ann", digest_of(TOKEN), frozenset({Right.READ})),)
    with AsgiClient(scene.app()) as client:
        yield client


def sign_in(client: AsgiClient, token: str, *, to: str = "/", **headers: str) -> Answer:
    body = urlencode({"token": token, "next": to}).encode()
    return client.post("/session", body, {**FORM, **{k.replace("_", "-"): v for k, v in headers.items()}})


def cookie_of(answer: Answer) -> str:
    return (answer.header("set-cookie") or "").partition(";")[0]


def test_a_known_token_is_kept_where_no_script_and_no_other_site_reaches_it(client: AsgiClient) -> None:
    answer = sign_in(client, TOKEN, to="/queue")
    assert (answer.status, answer.header("location")) == (303, "/queue")
    attributes = (answer.header("set-cookie") or "").lower()
    assert "httponly" in attributes and "samesite=strict" in attributes and "secure" not in attributes
    page = client.get("/", {"cookie": cookie_of(answer)}).body
    assert b"Signed in as <b>ann</b>" in page and b"/configuration" in page


def test_over_tls_the_cookie_never_travels_in_the_open(client: AsgiClient) -> None:
    answer = sign_in(client, TOKEN, origin="https://asu.example.org")
    assert "secure" in (answer.header("set-cookie") or "").lower()


def test_an_unknown_token_is_refused_with_a_form_to_try_again(client: AsgiClient) -> None:
    answer = sign_in(client, "guessed")
    assert answer.status == 401
    assert answer.header("set-cookie") is None
    assert b"This token is unknown" in answer.body and b'name="token"' in answer.body


def test_the_commands_it_names_make_tokens_with_these_rights(client: AsgiClient) -> None:
    """They can be typed as they stand, but for the name."""
    page = html.unescape(client.get("/configuration").body.decode())
    named = re.findall(r"<code>asu-builder (token NAME [^<]+)</code>", page)
    assert [command.split()[-1] for command in named] == ["read", "operate"]
    for command in named:
        ended = CliRunner().invoke(main, command.replace("NAME", "ann").split())
        assert ended.exit_code == 0, ended.output
        assert f"rights: [{command.split()[-1]}]" in ended.stderr + ended.stdout


def test_a_cookie_with_a_token_that_was_taken_back_says_nothing(client: AsgiClient) -> None:
    page = client.get("/", {"cookie": "asu_token=old"})
    assert page.status == 200 and b"Signed in" not in page.body


def test_the_interface_for_programs_does_not_look_at_the_cookie(client: AsgiClient) -> None:
    cookie = cookie_of(sign_in(client, TOKEN))
    assert client.get("/api/v1/jobs", {"cookie": cookie}).status == 401


def test_signing_out_forgets_the_cookie(client: AsgiClient) -> None:
    answer = client.post("/session/end", b"next=%2F", FORM)
    assert answer.status == 303
    assert 'asu_token=""' in (answer.header("set-cookie") or "")


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_form_from_another_site_is_refused(client: AsgiClient, headers: dict[str, str]) -> None:
    body = urlencode({"token": TOKEN}).encode()
    answer = client.post("/session", body, {**FORM, **headers})
    assert answer.status == 403 and b"another site" in answer.body


def test_an_older_browser_is_told_by_its_origin(client: AsgiClient) -> None:
    body = urlencode({"token": TOKEN}).encode()
    kind = {"content-type": FORM["content-type"], "host": "asu.example.org"}
    assert client.post("/session", body, {**kind, "origin": "https://evil.example.org"}).status == 403
    assert client.post("/session", body, {**kind, "origin": "https://asu.example.org"}).status == 303


@pytest.mark.parametrize("to", ["https://evil.example.org", "//evil.example.org", "/\\evil.example.org", ""])
def test_signing_in_leads_nowhere_else(client: AsgiClient, to: str) -> None:
    assert sign_in(client, TOKEN, to=to).header("location") == "/"


def test_what_is_no_form_is_refused(client: AsgiClient) -> None:
    assert client.post("/session", {"token": TOKEN}, {"sec-fetch-site": "same-origin"}).status == 422
