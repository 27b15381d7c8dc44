"""What a form says, read as a browser has written it."""

import asyncio
from types import SimpleNamespace
from urllib.parse import parse_qs, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from asu_builder.domain.errors import RequestMalformed, RequestRejected
from asu_builder.http.pages.session import form

MOST = 5
KIND = (b"content-type", b"application/x-www-form-urlencoded")


def read(body: bytes) -> dict[str, str]:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    app = SimpleNamespace(state=SimpleNamespace(most_fields=MOST))
    return asyncio.run(form(Request({"type": "http", "headers": [KIND], "app": app}, receive)))


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=MOST))
def test_what_a_browser_writes_is_read_back(pairs: list[tuple[str, str]]) -> None:
    pairs = [tuple(text.encode("utf-8", "replace").decode() for text in pair) for pair in pairs]  # type: ignore[misc]
    assert read(urlencode(pairs).encode()) == dict(pairs)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "a",
        "a=",
        "=b",
        "a=b=c",
        "a=1&a=2",
        "&&a=b&",
        "a+b=c+d",
        "a=%ff%FE",
        "a=\n=\r\n",
        "a=é_=3D",
        "a==3D",
    ],
)
def test_odd_forms_are_read_as_everywhere(body: str) -> None:
    expected = parse_qs(body, keep_blank_values=True)
    assert read(body.encode()) == {name: values[-1] for name, values in expected.items()}


@pytest.mark.parametrize("body", [b"a=%", b"a=%4", b"a=%zz&b=1", b"%=1", b"a=%%41"])
def test_a_broken_escape_is_no_form(body: bytes) -> None:
    with pytest.raises(RequestMalformed, match="body: expected a form"):
        read(body)


def test_more_fields_than_the_limit_are_refused() -> None:
    assert read(b"a=&b=&c=&d=&e=") == dict.fromkeys("abcde", "")
    with pytest.raises(RequestRejected, match="at most 5 fields"):
        read(b"a=&b=&c=&d=&e=&f=")
