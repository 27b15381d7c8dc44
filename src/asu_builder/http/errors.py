"""The one table from errors to responses."""

from http import HTTPStatus

from asu_builder.domain.errors import (
    AsuError,
    BuildNotFound,
    Conflict,
    NotAllowed,
    NotAuthenticated,
    PartUnavailable,
    QueueFull,
    RequestMalformed,
    RequestRejected,
    Side,
    TooManyRequests,
    Unavailable,
)
from asu_builder.http.api.wire import RenderedResponse, render_problem

ERRORS: dict[type[AsuError], tuple[int, str, str]] = {
    RequestMalformed: (422, "Malformed request", "request_malformed"),
    RequestRejected: (400, "Request rejected", "request_rejected"),
    NotAuthenticated: (401, "Not authenticated", "not_authenticated"),
    NotAllowed: (403, "Not allowed", "not_allowed"),
    BuildNotFound: (404, "Not Found", ""),
    Conflict: (409, "Conflict", "conflict"),
    QueueFull: (429, "Queue full", "queue_full"),
    TooManyRequests: (429, "Too many requests", "too_many_requests"),
    Unavailable: (503, "Unavailable", "unavailable"),
}
"""Error class to HTTP status, title, and a code that never changes; the nearest base in here counts."""

INTERNAL_SENTENCE = "The server made a mistake and has written it to its log. Please try again later."
INTERNAL = render_problem(
    500,
    "Internal error",
    INTERNAL_SENTENCE,
    code="internal",
    side=Side.INTERNAL,
)


def _entry_of(error: AsuError) -> tuple[int, str, str]:
    return next((ERRORS[base] for base in type(error).__mro__ if base in ERRORS), (500, "Internal error", ""))


def status_of(error: AsuError) -> tuple[int, str]:
    """HTTP status and title of a deliberate error; 500 for one that is not in the table."""
    return _entry_of(error)[:2]


def sentence_of(error: AsuError, *, details: bool) -> str:
    """What a client reads; `details` are for holders of a token with the right to read."""
    return str(error) if details else error.public


def answer_error(error: AsuError, *, details: bool = False) -> RenderedResponse:
    """The answer to a deliberate error; one that is not in the table is a bug, told as such.

    `details` are for holders of a token with the right to read: hosts, paths, and remedies.
    """
    status, title, code = _entry_of(error)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return INTERNAL
    headers = []
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers.append((b"retry-after", b"%d" % retry_after))
    sentence = sentence_of(error, details=details)
    field = error.field if isinstance(error, RequestRejected) else ""
    if isinstance(error, PartUnavailable) and error.part:
        code = f"{error.part}_unavailable"
    # What another request would not meet is the request's side.
    side: Side | None = Side.INFRASTRUCTURE if isinstance(error, (Unavailable, QueueFull)) else Side.USER
    if isinstance(error, BuildNotFound):
        side = None  # in the very words of the contract
    problem = render_problem(status, title, sentence, code=code, side=side, field=field)
    return RenderedResponse(status, problem.body, tuple(headers))
