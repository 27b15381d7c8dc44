"""Sign-in on pages: the operator's token is kept in a cookie that only pages read.

The API never reads the cookie, so no other site can use it there. Forms need a header of the browser
that says that they were sent from a page of this server.
"""

import re
from binascii import a2b_qp
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from asu_builder.domain.access import Caller
from asu_builder.domain.errors import NotAllowed, NotAuthenticated, RequestMalformed, RequestRejected
from asu_builder.http.callers import Callers
from asu_builder.http.texts import gettext

COOKIE = "asu_token"
_DAYS = 30
_LONGEST_ORIGIN = 512
_AUTHORIZATION = b"authorization"
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Sessions:
    """The caller of a page: by cookie, or by header or address as everywhere."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    def caller(self, request: Request) -> Caller:
        """The holder of the cookie's token; the address alone if the token is unknown or revoked."""
        token = cookie_of(request, COOKIE)
        scope: dict[str, Any] = dict(request.scope)
        if token:
            with_token = (_AUTHORIZATION, b"Bearer " + token.encode("latin-1", "replace"))
            try:
                return self._callers.of({**scope, "headers": [*scope["headers"], with_token]})
            except NotAuthenticated:
                pass  # revoked
        try:
            return self._callers.of(scope)
        except NotAuthenticated:
            others = [header for header in scope["headers"] if header[0] != _AUTHORIZATION]
            return self._callers.of({**scope, "headers": others})

    async def begin(self, request: Request) -> Response:
        """Puts the token of a form into the cookie. Raises `NotAuthenticated`."""
        given = await form(request)
        request.state.page = path_here(given.get("next", ""))
        token = given.get("token", "").strip()
        header = (_AUTHORIZATION, b"Bearer " + token.encode("latin-1", "replace"))
        try:
            self._callers.of({**request.scope, "headers": [header]})
        except NotAuthenticated:
            raise NotAuthenticated(
                gettext("This token is unknown. Check that you entered all of it.")
            ) from None
        response = RedirectResponse(request.state.page, 303)
        response.set_cookie(
            COOKIE,
            token,
            max_age=_DAYS * 86400,
            httponly=True,
            samesite="strict",
            secure=is_secure(request),
        )
        return response

    async def end(self, request: Request) -> Response:
        """Deletes the cookie."""
        given = await form(request)
        response = RedirectResponse(path_here(given.get("next", "")), 303)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response


async def form(request: Request) -> dict[str, str]:
    """The fields of a form from a page of this server; the last value of each name counts.

    Raises `NotAllowed` for a form from another site, `RequestMalformed` for an invalid body.
    """
    require_own_page(request)
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise RequestMalformed("body: expected a form")
    body, most = await request.body(), request.app.state.most_fields
    if body.count(b"&") >= most:
        raise RequestRejected(f"body: expected a form of at most {most} fields")
    if _BROKEN_ESCAPE.search(body):
        raise RequestMalformed("body: expected a form; a % in it is not followed by two hexadecimal digits")
    pairs = (pair.partition(b"=") for pair in body.split(b"&") if pair)
    return {_unescaped(name): _unescaped(value) for name, _, value in pairs}


def _unescaped(text: bytes) -> str:
    """Decodes `a+b%3D`. `urllib.parse` needs a second for a mebibyte of escapes."""
    quoted = text.replace(b"+", b" ").replace(b"=", b"=3D").replace(b"%", b"=")
    return a2b_qp(quoted).decode("utf-8", "replace")


def require_own_page(request: Request) -> None:
    """Raises `NotAllowed` for a form from another site."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        # Browsers before 2023 send only the origin; a client that sends neither is no browser.
        origin = request.headers.get("origin")
        host = request.headers.get("host", "")
        try:
            own = origin is None or urlsplit(origin[:_LONGEST_ORIGIN]).netloc == host
        except ValueError:
            own = False
    if not own:
        raise NotAllowed(
            "This form was sent from another site. Open the page on this server and send it again."
        )


def cookie_of(request: Request, name: str) -> str:
    """The value of a cookie; "" if it is missing or the header is invalid."""
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(request.headers.get("cookie", "")[:8192])
    except CookieError:
        return ""
    found = cookies.get(name)
    return found.value[:256] if found else ""


def path_here(path: str) -> str:
    """A path of this server, never a URL of another one."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"


def is_secure(request: Request) -> bool:
    """Whether the browser uses TLS, so that a cookie may be `Secure`."""
    # Behind a proxy that terminates TLS only the browser's origin tells the scheme.
    origin = request.headers.get("origin", "")
    return request.scope["scheme"] == "https" or origin.startswith("https://")
