"""The one table from what went wrong to what a client is told."""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.errors import (
    AsuError,
    BuildNotFound,
    Conflict,
    NotAllowed,
    NotAuthenticated,
    QueueFull,
    RequestMalformed,
    RequestRejected,
    TooManyRequests,
    Unavailable,
)
from asu_builder.web.wire import Answer, render_problem

STATUS: dict[type[AsuError], tuple[int, str]] = {
    RequestMalformed: (422, "Malformed request"),
    RequestRejected: (400, "Request rejected"),
    NotAuthenticated: (401, "Not authenticated"),
    NotAllowed: (403, "Not allowed"),
    BuildNotFound: (404, "Not Found"),
    Conflict: (409, "Conflict"),
    QueueFull: (429, "Queue full"),
    TooManyRequests: (429, "Too many requests"),
    Unavailable: (503, "Unavailable"),
}
"""Error class to HTTP status and title; a class is found by its nearest base in this table."""

INTERNAL = render_problem(
    500,
    "Internal error",
    "The server made a mistake and has written it to its log. Please try again later.",
)


def status_of(error: AsuError) -> tuple[int, str]:
    """HTTP status and title of a deliberate error; 500 for one that is not in the table."""
    return next((STATUS[base] for base in type(error).__mro__ if base in STATUS), (500, "Internal error"))


def answer_error(error: AsuError) -> Answer:
    """The answer to a deliberate error; one that is not in the table is a bug, told as such."""
    status, title = status_of(error)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return INTERNAL
    headers = []
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers.append((b"retry-after", b"%d" % retry_after))
    return Answer(status, render_problem(status, title, str(error)).body, tuple(headers))


def respond(answer: Answer) -> Response:
    """An answer as Starlette sends it."""
    response = Response(answer.body, answer.status, media_type="application/json")
    response.raw_headers.extend(answer.headers)
    return response


async def on_asu_error(_: Request, error: Exception) -> Response:
    """Starlette's hook for everything that is raised on purpose."""
    assert isinstance(error, AsuError)
    answer = answer_error(error)
    if answer is INTERNAL:
        raise error
    return respond(answer)


async def on_http_error(_: Request, error: Exception) -> Response:
    """Starlette's hook for what its router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    details = {404: "Nothing lives at this address.", 405: "This address does not know this method."}
    response = respond(render_problem(status.value, status.phrase, details.get(status, status.phrase)))
    response.headers.update(error.headers or {})
    return response


async def on_bug(_: Request, __: Exception) -> Response:
    """Starlette's hook for everything else; the front door logs the traceback."""
    return respond(INTERNAL)
