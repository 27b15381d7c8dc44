"""WebSockets on their way in: which address leads where, and what every answer carries."""

import re

from starlette.types import Message, Receive, Scope, Send

from asu_builder.web.live_streams import LiveStreams
from asu_builder.web.refusals import refuse_socket
from asu_builder.web.wire import render_problem

EVENTS = "/api/v1/build/{request_hash}/events"
_EVENTS = re.compile(r"/api/v1/build/([0-9a-f]{1,128})/events")
_NOT_FOUND = render_problem(404, "Not Found", "Nothing that speaks WebSocket lives at this address.")


async def answer_socket(
    streams: LiveStreams, scope: Scope, receive: Receive, send: Send, request_id: bytes
) -> tuple[str, int]:
    """Answers one; the route and the HTTP status, for the counters."""
    found = _EVENTS.fullmatch(scope["path"])
    if found is None:
        await refuse_socket(_NOT_FOUND, send, request_id)
        return "unknown", 404

    async def named(message: Message) -> None:
        if message["type"] == "websocket.accept":
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
        await send(message)

    await receive()  # websocket.connect
    await streams.socket(found[1], scope, receive, named)
    return EVENTS, 101
