"""What a client is told that the door turns away, before there is a request or instead of its answer."""

from starlette.types import Send

from asu_builder.web.door import DoorLimits
from asu_builder.web.passage import NO_STORE
from asu_builder.web.wire import Answer, render_problem

NOT_HTTP = render_problem(400, "Malformed request", "This is not a valid HTTP request.")
NOT_A_HANDSHAKE = render_problem(
    400,
    "Malformed request",
    "The handshake of a WebSocket has no body, at most 128 headers, and at most 8192 bytes in a line.",
)
BUSY = Answer(
    503,
    render_problem(503, "Busy", "Too many large requests arrive at once; try again in a moment.").body,
    ((b"retry-after", b"5"),),
)


def head_too_large(limits: DoorLimits) -> Answer:
    """Too many headers, or too long ones."""
    return render_problem(431, "Head too large", f"All headers together have at most {limits.head} bytes.")


def address_too_long(limits: DoorLimits) -> Answer:
    """A first line that does not end."""
    text = f"The first line of a request has at most {limits.request_line} bytes."
    return render_problem(414, "Address too long", text)


def too_many_fields(limits: DoorLimits) -> Answer:
    """More behind the question mark of an address than is looked at."""
    return render_problem(400, "Too many fields", f"An address has at most {limits.fields} fields.")


def slow_head(limits: DoorLimits) -> Answer:
    """A connection without a request."""
    text = f"The request did not arrive within {limits.head_seconds:g} seconds; try again"
    return render_problem(408, "Too slow", text)


def slow_body(limits: DoorLimits) -> Answer:
    """A request whose rest does not come."""
    text = f"body: it did not arrive within {limits.body_seconds:g} seconds; try again"
    return render_problem(408, "Too slow", text)


def body_too_large(limit: int) -> Answer:
    """More than the limit of where it was sent."""
    text = f"body: expected at most {limit} bytes; a build request is much smaller"
    return render_problem(413, "Too large", text)


def too_many_connections(limits: DoorLimits) -> Answer:
    """One more from an address that has its share."""
    text = f"An address has at most {limits.connections} connections."
    return render_problem(429, "Too many connections", text)


async def refuse_socket(answer: Answer, send: Send, request_id: bytes) -> None:
    """Answers the wish to open a WebSocket as plain HTTP: there is none yet that could be closed."""
    headers = [
        (b"content-type", b"application/json"),
        *answer.headers,
        NO_STORE,
        (b"x-request-id", request_id),
    ]
    await send({"type": "websocket.http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": answer.body})
