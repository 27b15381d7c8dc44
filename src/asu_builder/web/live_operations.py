"""Watching a build, for the route table."""

from asu_builder.web.documents import Problem
from asu_builder.web.openapi import Operation

_READ = ("GET", "HEAD")
_UNKNOWN = {
    400: ("after is no number", Problem),
    404: ("Nobody knows this request, or it has expired", Problem),
    503: ("A part of the service does not answer; Retry-After says when to try again", Problem),
}
_WATCHED = {
    401: ("An unknown token was sent", Problem),
    429: ("Too many watch builds, of this address or in all; Retry-After says when to try again", Problem),
}

LIVE = (
    Operation(
        "/api/v1/build/{request_hash}/events",
        _READ,
        "Follow a build: by WebSocket, where each message is one of the documents below with its name as "
        "`type`, else as server-sent events with the same documents, where a client that comes back sends "
        "Last-Event-ID.",
        {200: ("Events until the build has ended", None), **_UNKNOWN, **_WATCHED},
        query=("after",),
        content_type="text/event-stream",
        events=True,
    ),
    Operation(
        "/api/v1/build/{request_hash}/log",
        _READ,
        "What a build has printed, one line each: time, stage, text. With follow=1 also what it will print, "
        "to its end.",
        {200: ("The lines", None), **_UNKNOWN, **_WATCHED},
        query=("after", "follow"),
        content_type="text/plain",
    ),
)
