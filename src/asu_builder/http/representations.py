"""Answers as Starlette sends them: errors, and documents in their representations (RFC 9110).

A document is its bytes, and their gzip form for those who ask for it. Each has a strong validator. A client
that names the one it would be sent gets 304.
"""

import contextlib
import hashlib
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from http import HTTPStatus

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from asu_builder.domain.errors import AsuError
from asu_builder.http.api.wire import RenderedResponse, render_problem
from asu_builder.http.errors import INTERNAL, INTERNAL_SENTENCE, answer_error

JSON = b"application/json"
LEAST_COMPRESSED = 1024
"""Bytes; less fits into one packet either way."""
_LEVEL = 6
_GZIP = 31
"""`wbits` of zlib for a gzip file without a name or time: the same bytes in every process."""
_VARY = (b"vary", b"Accept-Encoding")
_LONGEST = 256
"""Characters of an `Accept-Encoding` that is looked at; no client sends a longer one."""
_MEDIA_TYPE = re.compile(
    rb"([a-z0-9!#$&^_.+*-]+/[a-z0-9!#$&^_.+*-]+)(?:[ \t]*;[ \t]*[a-pr-z][^;]*)*"
    rb"(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?",
    re.ASCII,
)
"""A media type with its weight, in small letters."""
_CODING = re.compile(
    rb"([a-z0-9!#$%&'*+.^_`|~-]+)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?", re.ASCII
)
"""A coding with its weight, in small letters."""


@lru_cache(maxsize=64)
def prefers_gzip(accepted: bytes) -> bool:
    """Whether this `Accept-Encoding` allows gzip, and weighs it no less than the bytes as they are.

    What is malformed in it counts for nothing. An empty one, like none, asks for no coding.
    """
    weights: dict[bytes, float] = {}
    for part in accepted.lower().split(b","):
        if match := _CODING.fullmatch(part.strip()):
            weights[match[1]] = float(match[2] or 1)
    others = weights.get(b"*", 0.0)
    weight = weights.get(b"gzip", weights.get(b"x-gzip", others))
    # What is not named may be sent (§12.5.3), but only if nothing that is named can be.
    return 0 < weight >= weights.get(b"identity", others)


@lru_cache(maxsize=64)
def prefers_page(accepted: bytes) -> bool:
    """Whether this `Accept` is that of somebody who opens an address in a browser: it names HTML itself.

    A program that names nothing, or any type, gets what it always got.
    """
    weights: dict[bytes, float] = {}
    for part in accepted[:_LONGEST].lower().split(b","):
        if match := _MEDIA_TYPE.fullmatch(part.strip()):
            weights[match[1]] = float(match[2] or 1)
    return weights.get(b"text/html", 0.0) > weights.get(b"application/json", 0.0)


class Wanted(Struct, frozen=True):
    """Which representation a request asks for, and which ones its sender has."""

    gzip: bool
    known: bytes
    """`If-None-Match`; empty without one."""


def wanted(scope: Scope) -> Wanted:
    """What the headers of a GET or HEAD say. Never raises."""
    accepted = known = b""
    for name, value in scope["headers"]:
        if name == b"accept-encoding":
            accepted = b"%b,%b" % (accepted, value) if accepted else value
        elif name == b"if-none-match":
            known = b"%b,%b" % (known, value) if known else value
    return Wanted(len(accepted) <= _LONGEST and prefers_gzip(accepted), known)


class _Encoded(Response):
    """A response of bytes that are all there, headers too; Starlette would look at each of them."""

    def __init__(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.status_code, self.body, self.raw_headers = status, body, headers
        self.background = None


class Document:
    """Bytes that many clients are sent. Large ones are made and compressed in a thread."""

    def __init__(self, body: bytes, content_type: bytes = JSON) -> None:
        self.body = body
        self._content_type = (b"content-type", content_type)
        self.digest = hashlib.sha256(body).hexdigest()[:32].encode()
        self._plain_headers = self._headers(body)
        self._gzip_headers = self._plain_headers
        self.gzipped: bytes | None = None if len(body) >= LEAST_COMPRESSED else b""
        """None before the first call of `compress`, and empty where it saves nothing."""

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return len(self.body) + len(self.gzipped or b"")

    def compress(self) -> None:
        """Makes the gzip form. A second call changes nothing."""
        if self.gzipped is None:
            gzipped = zlib.compress(self.body, _LEVEL, _GZIP)
            if len(gzipped) >= len(self.body):
                gzipped = b""
            self._gzip_headers = self._headers(gzipped, b"-gzip", (b"content-encoding", b"gzip"))
            self.gzipped = gzipped

    def answer(self, asked: Wanted, headers: Iterable[tuple[bytes, bytes]] = ()) -> Response:
        """The representation that is asked for, or 304 if the client has it; both carry `headers`."""
        body, own = self.body, self._plain_headers
        if asked.gzip and self.gzipped:
            body, own = self.gzipped, self._gzip_headers
        if asked.known and _names(asked.known, own[0][1]):
            return _Encoded(304, b"", [*own[:2], *headers])
        return _Encoded(200, body, [*own, *headers])

    def _headers(
        self, body: bytes, suffix: bytes = b"", *also: tuple[bytes, bytes]
    ) -> tuple[tuple[bytes, bytes], ...]:
        """Those of a representation; the first two are those of a 304 too."""
        etag = (b"etag", b'"%b%b"' % (self.digest, suffix))
        return (etag, _VARY, self._content_type, (b"content-length", b"%d" % len(body)), *also)


def _names(known: bytes, etag: bytes) -> bool:
    """Whether an `If-None-Match` names the tag, compared weakly.

    In a list it can stand nowhere but in its place: between two tags are only commas, spaces and `W/`.
    """
    return etag in known or known.strip() == b"*"


def respond(answer: RenderedResponse) -> Response:
    """An answer as Starlette sends it."""
    response = Response(answer.body, answer.status, media_type="application/json")
    response.raw_headers.extend(answer.headers)
    return response


Problem = AsuError | tuple[int, str, str]
"""What went wrong: an error, or a status with its title and a sentence."""
ShowProblem = Callable[[Request, Problem], Awaitable[Response]]
"""Makes its page."""
_FOR_PROGRAMS = ("/api/", "/json/", "/metrics", "/openapi.json")
"""Addresses whose errors are documents for every client."""


def wants_page(request: Request) -> bool:
    """Whether an error at this address is a page for who asks."""
    if request.scope["path"].startswith(_FOR_PROGRAMS):
        return False
    return prefers_page(",".join(request.headers.getlist("accept")).encode("latin-1"))


def make_error_hook(
    may_read: Callable[[Scope], bool], show: ShowProblem | None = None
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Starlette's hook for everything that is raised deliberately; operators read the details.

    `show` makes pages for browsers; None where there are none.
    """

    async def on_asu_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, AsuError)
        answer = answer_error(error, details=may_read(request.scope))
        if answer is INTERNAL:
            raise error
        return await show(request, error) if show and wants_page(request) else respond(answer)

    return on_asu_error


_REFUSED = {404: "Nothing lives at this address.", 405: "This address does not know this method."}


async def on_http_error(_: Request, error: Exception) -> Response:
    """Starlette's hook for what its router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    response = respond(render_problem(status.value, status.phrase, _REFUSED.get(status, status.phrase)))
    response.headers.update(error.headers or {})
    return response


def make_http_error_hook(show: ShowProblem | None) -> Callable[[Request, Exception], Awaitable[Response]]:
    """The same, with a page for browsers."""

    async def on_error(request: Request, error: Exception) -> Response:
        if show is None or not wants_page(request):
            return await on_http_error(request, error)
        assert isinstance(error, HTTPException)
        status = HTTPStatus(error.status_code)
        sentence = _REFUSED.get(status, status.phrase)
        response = await show(request, (status.value, status.phrase.capitalize(), sentence))
        response.headers.update(error.headers or {})
        return response

    return on_error


async def on_bug(_: Request, __: Exception) -> Response:
    """Starlette's hook for everything else; the fast path logs the traceback."""
    return respond(INTERNAL)


def make_bug_hook(show: ShowProblem | None) -> Callable[[Request, Exception], Awaitable[Response]]:
    """The same, with a page for browsers."""

    async def on_error(request: Request, error: Exception) -> Response:
        if show is not None and wants_page(request):
            # What is broken may be the pages.
            with contextlib.suppress(Exception):
                return await show(request, (500, "Internal error", INTERNAL_SENTENCE))
        return respond(INTERNAL)

    return on_error
