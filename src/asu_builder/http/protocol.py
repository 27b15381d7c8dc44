"""uvicorn's HTTP protocol with limits on what it reads and on how long it waits."""

import asyncio
import logging
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from asu_builder.http import door
from asu_builder.http.api.wire import RenderedResponse
from asu_builder.http.door import (
    ABORT,
    CLIENT,
    LINGER_SECONDS,
    LOWEST_BODY,
    RAW_HEAD,
    TAKE,
    WRITE,
    Client,
    Door,
)

_SLICE = 16 << 10
"""Bytes that the parser gets at once: it adds up a header's pieces at a cost that grows with the square."""
_END_OF_HEAD = b"\r\n\r\n"
_REST_OF_LINE = len(b"GET  HTTP/1.1")

_IDLE, _HEAD, _BODY, _REFUSED, _UPGRADED = range(5)
"""What of a request is arriving; behind an upgrade none comes any more."""

_log = logging.getLogger(__name__)


class _Refused(Exception):
    """Raised within the parser, which wraps it."""

    def __init__(self, answer: RenderedResponse) -> None:
        super().__init__(answer.status)
        self.answer = answer


class HttpProtocol(HttpToolsProtocol):
    """One connection. Says in each scope how it is broken off, and whether its client is still there."""

    # With more than thirty names beside uvicorn's, each connection would have a dict that shares no keys.
    __slots__ = (
        "_body",
        "_client",
        "_door",
        "_held",
        "_held_back",
        "_phase",
        "_since",
        "_slice",
        "_unread",
        "_unsent",
        "_unsent_since",
    )

    def __init__(self, *, door: Door, **parts: Any) -> None:
        super().__init__(**parts)
        self._door = door
        self._client = Client()
        self._phase = _IDLE
        self._since: float | None = None
        """Since when the client owes what comes next; None until the clock is read."""
        self._unread = 0
        """Bytes that the parser got since it last gave us something whole."""
        self._slice = 0
        self._body = 0
        self._held = 0
        self._held_back = b""
        self._unsent = 0
        self._unsent_since = 0.0

    # Called by the event loop.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._since = self.loop.time()
        if not self._door.admit(self, self.client[0] if self.client else None, self.loop):
            self._phase = _REFUSED
            self._write(door.too_many_connections(self._door.limits))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._door.leave(self)
        self._client.leave()
        self._client.cycle = None
        self._release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._phase == _REFUSED:
            return
        if self._held_back:
            data, self._held_back = self._held_back + data, b""
        head = body = b""
        if self._phase == _IDLE and data.startswith(b"POST "):
            ends = data.find(_END_OF_HEAD, 0, self._door.limits.max_head_size) + len(_END_OF_HEAD)
            if ends > len(_END_OF_HEAD):
                head, body = data[:ends], data[ends:]
                if self._answer_again(head, body):
                    return
        self._read(data)
        if head and self._phase == _IDLE:
            self._note_head(head, body)

    def _read(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._feed_in_slices(data)
        if self._since is None and self._phase != _IDLE:
            self._since = self.loop.time()

    def _read_held_back(self) -> None:
        if self._held_back:
            data, self._held_back = self._held_back, b""
            self._read(data)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._client.cycle = cycle  # not `self.cycle`, which may be a later request's
        super()._start_asgi_task(cycle, app)

    def resume_writing(self) -> None:
        """Most of what was to be sent has left."""
        super().resume_writing()
        self._unsent = 0

    def shutdown(self) -> None:
        """uvicorn's word that the server ends."""
        self._read_held_back()
        if self._phase == _REFUSED:
            self.transport.close()
        else:
            super().shutdown()

    # Called by the door.

    def abort(self) -> None:
        """Breaks the connection off; what was not sent stays unsent."""
        self.transport.abort()

    def check_deadlines(self, now: float) -> None:
        """Ends the connection when the client has been too slow."""
        self._read_held_back()
        limits = self._door.limits
        unsent = self.transport.get_write_buffer_size()
        if not (unsent and self._unsent and unsent >= self._unsent):
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since >= limits.reader_timeout.total_seconds():
            self.abort()
            return
        if self._owes_nothing():
            self._since = None
        elif self._since is None:
            self._since = now
        elif self._phase == _REFUSED:
            if now - self._since >= LINGER_SECONDS:
                self.abort()
        elif self._phase == _BODY:
            if now - self._since >= limits.body_timeout.total_seconds():
                self._refuse(door.slow_body(limits))
        elif now - self._since >= limits.head_timeout.total_seconds():
            self._refuse(door.slow_head(limits))

    def _owes_nothing(self) -> bool:
        """While it is our turn; between two requests uvicorn's own timer runs."""
        if self._phase == _BODY:
            return self.flow.read_paused
        return self._phase == _IDLE and (self.timeout_keep_alive_task is not None or self._must_answer())

    # Called by the parser.

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        scope: Any = self.scope
        scope[ABORT], scope[CLIENT] = self.transport.abort, self._client
        scope[TAKE], scope[WRITE] = self.take_body, self.write_answer
        self._phase = _HEAD
        self._unread = 0
        if self.cycle is not None:
            self._since = None

    def on_url(self, url: bytes) -> None:
        """A piece of the address."""
        self.url += url
        if len(self.url) + _REST_OF_LINE > self._door.limits.max_request_line:
            raise _Refused(door.address_too_long(self._door.limits))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        if self._phase != _HEAD:
            return  # behind a body: nothing here looks at those
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole, and the application begins."""
        if self.parser.should_upgrade() and self._asks_for_another_protocol():
            return
        limits = self._door.limits
        if self._unread + self._slice > limits.max_head_size:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > limits.max_head_size:
                raise _Refused(door.head_too_large(limits))
        if len(self.url) > limits.max_fields and self.url.count(b"&") >= limits.max_fields:
            raise _Refused(door.too_many_fields(limits))
        former: Any = self.cycle
        if former is None:
            self._door.has_spoken(self)
        self._phase = _BODY
        self._since = None
        self._unread = self._body = 0
        super().on_headers_complete()
        if self.expect_100_continue:
            # A client that asks before it sends a body is told at once.
            declared = next((value for name, value in self.headers if name == b"content-length"), b"0")
            limit = self._door.body_limit(self.scope["path"])
            if int(declared) > limit:
                raise _Refused(door.body_too_large(limit))

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._unread = 0
        self._body += len(body)
        if self._body > LOWEST_BODY:
            limit = self._door.body_limit(self.scope.get("path", ""))
            if self._body > limit:
                raise _Refused(door.body_too_large(limit))
            self._held += len(body)
            if not self._door.hold(len(body)):
                raise _Refused(door.BUSY)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._phase == _HEAD:
            return  # of one that asks for another protocol only the head was read
        self._phase = _IDLE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Our answer is given."""
        if self._held:
            self._release()
        self._client.cycle = None
        super().on_response_complete()

    # Called by the application.

    def take_body(self, scope: object) -> bytes | None:
        """The whole body of the request of this scope, if it is here and none of it was received yet."""
        cycle: Any = self.cycle
        if (
            cycle.scope is not scope
            or cycle.more_body
            or cycle.waiting_for_100_continue
            or cycle.disconnected
        ):
            return None
        return bytes(cycle.body)

    def write_answer(self, scope: object, answer: bytes) -> bool:
        """Sends the whole answer to the request of this scope, with its head, in one piece.

        uvicorn's own way costs as much as all the rest of a short answer. False where nothing was sent,
        because it has to go that way.
        """
        cycle: Any = self.cycle
        if (
            cycle.scope is not scope  # one that came behind it is being read already
            or not cycle.keep_alive
            or cycle.disconnected
            or cycle.response_started
            or self.flow.write_paused
        ):
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        self.transport.write(answer)
        cycle.message_event.set()
        self.on_response_complete()
        return True

    # How a request that came before is answered.

    def _answer_again(self, head: bytes, body: bytes) -> bool:
        """Answers a POST whose bytes are known, past the parser and the application; False where it is not.

        The parser is between two requests and stays there. What is known and not whole yet is held back from
        it; the door's next look gives it to the parser, and then the time for a body runs.
        """
        cycle: Any = self.cycle
        if self.flow.write_paused or (
            cycle is not None and not (cycle.response_complete and cycle.keep_alive)
        ):
            return False
        answer = self._door.known_answer(head, body)
        if answer is None:
            return False
        if not answer:
            self._unset_keepalive_if_required()
            self._held_back = head + body
            return True
        if cycle is None:
            self._door.has_spoken(self)
        self._since = None
        self.transport.write(answer)
        super().on_response_complete()
        return True

    def _note_head(self, head: bytes, rest: bytes) -> None:
        """Tells the application the bytes of the head, if the rest is the body of the request and no more.

        A body in chunks is shorter than its bytes, as is one with another request behind it.
        """
        cycle: Any = self.cycle
        if cycle.body == rest and not cycle.waiting_for_100_continue:
            cycle.scope[RAW_HEAD] = head

    # How it is refused.

    def _feed_in_slices(self, data: bytes) -> None:
        for start in range(0, len(data), _SLICE):
            if self._phase in (_REFUSED, _UPGRADED):
                return
            piece = data[start : start + _SLICE]
            self._slice = len(piece)
            behind: bytes | None = None
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                behind = piece[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                reason = error.__context__
                self._refuse(reason.answer if isinstance(reason, _Refused) else door.NOT_HTTP)
            else:
                if self._phase != _IDLE:
                    self._unread += len(piece)
                    if self._unread > self._door.limits.max_head_size + _SLICE:
                        self._refuse(door.head_too_large(self._door.limits))
            if behind is not None:
                self._upgrade(behind)  # not above, where what it raises would lose its own context

    def _asks_for_another_protocol(self) -> bool:
        """Than HTTP and WebSocket: then the request is read as if it did not ask."""
        return self.parser.get_method() != b"CONNECT" and not self._should_upgrade()

    def _upgrade(self, rest: bytes) -> None:
        if self._asks_for_another_protocol():
            self._read_without_upgrade(rest)
            return
        if not self._should_upgrade():
            self.cycle.keep_alive = False  # the parser takes nothing behind CONNECT
            return
        if self._must_answer():
            self._refuse(door.NOT_HTTP)  # a WebSocket would write into the answer before it
            return
        self.handle_websocket_upgrade()
        socket: Any = self.transport.get_protocol()
        if not socket.handshake_initiated:
            # Its library could not read the head, and uvicorn would wait for ever for a better one.
            self.connections.discard(socket)
            self.connections.add(self)
            self.transport.set_protocol(self)
            self._refuse(door.NOT_A_HANDSHAKE)
            return
        self._phase = _UPGRADED
        socket.door = self._door
        self._door.hand_over(self, socket)
        self.parser = cast("Any", None)  # the two hold each other, and would hold all of this with them

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Reads a head once more, without its wish for another protocol, and what came behind it.

        Java's client and `curl --http2` wish for h2c in each request. The parser takes nothing behind such
        a head, so the body would be lost.
        """
        request = self.parser.get_method(), self.url, self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % request]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets its own
        self._phase, self._unread = _IDLE, 0
        self._feed_in_slices(b"\r\n".join([*lines, b"", b""]) + rest)

    def _release(self) -> None:
        self._door.hold(-self._held)
        self._held = 0

    def _must_answer(self) -> bool:
        """Whether an answer of the application's is due."""
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, answer: RenderedResponse) -> None:
        """Answers this if no other answer is due, and takes nothing more."""
        cycle = self.cycle
        # A head that cannot be made sense of was no request of the application's.
        if self._phase == _BODY and cycle is not None and cycle.scope is self.scope:
            in_order = not self.pipeline and not cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
        else:
            in_order = not self._must_answer()
        self._phase = _REFUSED
        self._since = self.loop.time()
        self.flow.resume_reading()
        if not in_order:
            self.transport.close()
            return
        self._write(answer)
        self.transport.write_eof()

    def _write(self, answer: RenderedResponse) -> None:
        headers = (
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(answer.body)),
            (b"connection", b"close"),
            *answer.headers,
            *self._door.refuse(answer.status),
        )
        lines = [STATUS_LINE[answer.status], *(b"%s: %s\r\n" % header for header in headers), b"\r\n"]
        self.transport.write(b"".join(lines) + answer.body)
        _log.debug("Refused with %d", answer.status)
