"""What one caller may send, how slowly, how many connections an address may hold, and the refusals."""

import asyncio
import logging
import resource
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from asu_builder.http.api.wire import RenderedResponse, render_problem
from asu_builder.settings import Settings

if TYPE_CHECKING:
    from starlette.types import Send
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_log = logging.getLogger(__name__)

CLIENT = "asu_builder.client"
"""Where in a scope the `Client` is."""
NO_STORE = (b"cache-control", b"no-store")
"""What every answer says that does not say how long it may be kept."""
TAKE = "asu_builder.take"
"""Where in a scope is what gives the whole body at once, or None where it is not here yet."""
WRITE = "asu_builder.write"
"""Where in a scope is what sends a whole answer at once."""
RAW_HEAD = "asu_builder.head"
"""Where in a scope the bytes of the head are, if the request came in one piece with all of its body."""
ABORT = "asu_builder.abort"
"""Where in a scope the server's protocol says how a connection is broken off, sent or not."""

Headers = tuple[tuple[bytes, bytes], ...]

LOWEST_BODY = 64 << 10
"""Bytes that any body may have: a form of the pages has far fewer."""
LINGER_SECONDS = 2.0
"""How long what a refused client still sends is read and thrown away, so that it sees why."""

_LOOK_SECONDS = 1.0
_LOOKS_A_WAIT = 4
"""A short limit is looked after more often, so that it is kept within a quarter."""
_DESCRIPTORS_LEFT = 224
"""For the database, the store, the engine and running builds."""
_LEAST_CONNECTIONS = 64
_BODIES_AT_ONCE = 64 << 20
"""Bytes of bodies that are arriving, of all connections together."""


NOT_HTTP = render_problem(400, "Malformed request", "This is not a valid HTTP request.")
NOT_A_HANDSHAKE = render_problem(
    400,
    "Malformed request",
    "The handshake of a WebSocket has no body, at most 128 headers, and at most 8192 bytes in a line.",
)
BUSY = RenderedResponse(
    503,
    render_problem(503, "Busy", "Too many large requests arrive at once; try again in a moment.").body,
    ((b"retry-after", b"5"),),
)


def head_too_large(limits: Settings) -> RenderedResponse:
    """Too many headers, or too long ones."""
    return render_problem(
        431, "Head too large", f"All headers together have at most {limits.max_head_size} bytes."
    )


def address_too_long(limits: Settings) -> RenderedResponse:
    """A first line that does not end."""
    text = f"The first line of a request has at most {limits.max_request_line} bytes."
    return render_problem(414, "Address too long", text)


def too_many_fields(limits: Settings) -> RenderedResponse:
    """More behind the question mark of an address than is looked at."""
    return render_problem(400, "Too many fields", f"An address has at most {limits.max_fields} fields.")


def slow_head(limits: Settings) -> RenderedResponse:
    """A connection without a request."""
    text = f"The request did not arrive within {limits.head_timeout.total_seconds():g} seconds; try again"
    return render_problem(408, "Too slow", text)


def slow_body(limits: Settings) -> RenderedResponse:
    """A request whose rest does not come."""
    text = f"body: it did not arrive within {limits.body_timeout.total_seconds():g} seconds; try again"
    return render_problem(408, "Too slow", text)


def body_too_large(limit: int) -> RenderedResponse:
    """More than the limit of where it was sent."""
    text = f"body: expected at most {limit} bytes; a build request is much smaller"
    return render_problem(413, "Too large", text)


def too_many_connections(limits: Settings) -> RenderedResponse:
    """One more from an address that has its share."""
    text = f"An address has at most {limits.max_connections_per_address} connections."
    return render_problem(429, "Too many connections", text)


async def refuse_socket(answer: RenderedResponse, send: "Send", request_id: bytes) -> None:
    """Answers the wish to open a WebSocket as plain HTTP: there is none yet that could be closed."""
    headers = [
        (b"content-type", b"application/json"),
        *answer.headers,
        NO_STORE,
        (b"x-request-id", request_id),
    ]
    await send({"type": "websocket.http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": answer.body})


class Connection(Protocol):
    """What the door asks of a connection."""

    def check_deadlines(self, now: float) -> None:
        """Ends it when it has been too slow; `now` is the event loop's time."""
        ...

    def abort(self) -> None:
        """Ends it at once."""
        ...


class Client:
    """Whether the client of a connection is still there, with callbacks for when it leaves."""

    def __init__(self) -> None:
        self.gone = False
        self.cycle: RequestResponseCycle | None = None
        """The request that is being answered, as the server keeps it."""
        self.on_gone: set[Callable[[], object]] = set()
        """Called once, when it goes."""

    def leave(self) -> None:
        """It has gone."""
        self.gone = True
        for call in tuple(self.on_gone):
            call()


class ClientGone(Exception):
    """The client has gone away before it was answered."""


class Door:
    """The limits, and every connection that is open. To be used on the event loop."""

    def __init__(
        self,
        limits: Settings | None = None,
        *,
        counted_as: Callable[[str], str | None] = lambda host: host,
        large_bodies: Callable[[str], bool] = lambda path: True,
        refuse: Callable[[int], Headers] = lambda status: (),
        known_answer: Callable[[bytes, bytes], bytes | None] = lambda head, body: None,
    ) -> None:
        """`counted_as` gives the name under which a host's connections are counted, None for a host
        that may have any number. `large_bodies` says whether a path takes bodies up to the limit
        rather than `LOWEST_BODY`. `refuse` is told each refusal and gives the headers of its answer.
        `known_answer` gives the whole answer to a POST of these bytes, if it is known, and counts it as
        given; b"" where the rest of the body is to come.
        """
        self.limits = limits or Settings()
        self.refuse = refuse
        self.known_answer = known_answer
        self._counted_as = counted_as
        self._large_bodies = large_bodies
        self._open: dict[Connection, str | None] = {}
        self._silent: dict[Connection, None] = {}
        """Those that have not sent one whole head yet, the oldest first."""
        self._counts: Counter[str] = Counter()
        self._bodies = 0
        self._most = max(
            resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _DESCRIPTORS_LEFT, _LEAST_CONNECTIONS
        )
        shortest = min(self.limits.head_timeout, self.limits.body_timeout, self.limits.reader_timeout)
        self._pause = min(_LOOK_SECONDS, shortest.total_seconds() / _LOOKS_A_WAIT)
        self._looks = False

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def admit(self, connection: Connection, host: str | None, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether one more from this host may stay; a host of None is a Unix socket's."""
        name = None if host is None else self._counted_as(host)
        if name is not None:
            if self._counts[name] >= self.limits.max_connections_per_address:
                return False
            self._counts[name] += 1
        self._open[connection] = name
        self._silent[connection] = None
        if len(self._open) > self._most:
            next(iter(self._silent)).abort()
        if not self._looks:
            self._looks = True
            loop.call_later(self._pause, self._look, loop)
        return True

    def has_spoken(self, connection: Connection) -> None:
        """Its first head is here."""
        self._silent.pop(connection, None)

    def hand_over(self, connection: Connection, successor: Connection) -> None:
        """Its first head is here, and another protocol speaks on it from now on; it counts as before."""
        self._silent.pop(connection, None)
        self._open[successor] = self._open.pop(connection)

    def leave(self, connection: Connection) -> None:
        """It is gone. May be said twice."""
        self._silent.pop(connection, None)
        name = self._open.pop(connection, None)
        if name is not None:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]

    def body_limit(self, path: str) -> int:
        """Bytes that a body sent to this path may have."""
        return (
            self.limits.max_body_size
            if self._large_bodies(path)
            else min(self.limits.max_body_size, LOWEST_BODY)
        )

    def hold(self, size: int) -> bool:
        """Whether so many bytes more of a body have room in memory; a negative size gives them back."""
        self._bodies += size
        return self._bodies <= _BODIES_AT_ONCE

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in tuple(self._open):
            try:
                connection.check_deadlines(now)
            except Exception:  # noqa: BLE001 - met by this connection alone: the others are looked at too
                _log.exception("looking at a connection failed: a bug")
                connection.abort()
        self._looks = bool(self._open)
        if self._looks:
            loop.call_later(self._pause, self._look, loop)
