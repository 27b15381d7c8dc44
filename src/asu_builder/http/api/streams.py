"""How watchers are told: by WebSocket, as server-sent events, or as plain text."""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from msgspec import Struct
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from asu_builder.core.live import LiveBuilds
from asu_builder.domain.access import Right
from asu_builder.domain.errors import AsuError, RequestRejected
from asu_builder.http.api.builds import require_hash
from asu_builder.http.api.live import (
    EVENTS,
    STREAM,
    Message,
    WatchLimits,
    render_problem_event,
    render_text,
)
from asu_builder.http.api.watched import Watcher
from asu_builder.http.api.watchers import Watching
from asu_builder.http.api.wire import render_problem
from asu_builder.http.callers import Callers
from asu_builder.http.door import ABORT, CLIENT, Client, refuse_socket
from asu_builder.http.errors import sentence_of, status_of
from asu_builder.http.threads import Threads

_EVENTS_PATH = re.compile(r"/api/v1/build/([0-9a-f]{1,128})/events")
_NOT_FOUND = render_problem(404, "Not Found", "Nothing that speaks WebSocket lives at this address.")


HEARTBEAT_SECONDS = 15.0
_LINGER_SECONDS = 5.0
"""How long the end of a stream may take to be read by the other side."""
_MOST_LINGERING = 32
"""How many that were refused may be read to their end; under a flood they are closed at once."""
_GONE_SECONDS = 0.05
"""How long the server may take to notice that a connection was broken off."""
_HURRY_SECONDS = 0.5
"""The same when the server stops."""
_HEARTBEAT = b": still here\n\n"
_LONGEST_REASON = 120
_KEPT = ("method", "path", "route")
"""What of a scope is still looked at while its answer lasts."""
_PRIVATE = 4000
"""WebSocket close codes of ours are HTTP's, behind this."""


class _Form(Struct, frozen=True):
    """How a stream over HTTP looks."""

    content_type: bytes
    render: Callable[[Message], bytes]
    beat: bytes | None = None
    """What is sent when there was nothing to say for a while."""


_EVENTS = _Form(b"text/event-stream; charset=utf-8", lambda message: message.event, _HEARTBEAT)
_TEXT = _Form(b"text/plain; charset=utf-8", lambda message: message.text)


class LiveStreams:
    """Everything that stays open; lives on the event loop."""

    def __init__(
        self,
        source: LiveBuilds,
        threads: Threads,
        *,
        callers: Callers,
        limits: WatchLimits,
        on_end: Callable[[str], None],
    ) -> None:
        self._source = source
        self._threads = threads
        self._callers = callers
        self._seconds = limits.seconds
        self._watching = Watching(source, threads, limits=limits, on_end=on_end)
        self._open: set[_Connection] = set()
        self._lingering: set[_Connection] = set()

    @property
    def watchers(self) -> int:
        """How many are open."""
        return self._watching.count

    def stop(self) -> None:
        """Ends every stream; those whose other side does not read are broken off half a second later."""
        self._watching.stop()

        def break_off() -> None:
            for connection in tuple(self._open):
                connection.abort()

        asyncio.get_running_loop().call_later(_HURRY_SECONDS, break_off)

    async def events(self, request: Request) -> ASGIApp:
        """Server-sent events; a client that comes back says by `Last-Event-ID` where it was."""
        seen = request.headers.get("last-event-id", "")
        after = int(seen[:15]) if seen.isascii() and seen.isdigit() else _after(request)
        return await self._admit(request, after, _EVENTS)

    async def log(self, request: Request) -> ASGIApp:
        """The lines there are, or with `follow` also those that will come."""
        request_hash, after = require_hash(request.path_params["request_hash"]), _after(request)
        if request.query_params.get("follow", "0") not in ("", "0"):
            return await self._admit(request, after, _TEXT)

        def whole() -> bytes:
            return render_text(self._source.whole(request_hash, after=after)).encode()

        return PlainTextResponse(
            await self._threads.run(whole), headers={"x-content-type-options": "nosniff"}
        )

    async def _admit(self, request: Request, after: int, form: _Form) -> ASGIApp:
        """An answer that leaves its stream in the scope, so that no frame of the router stays open for it."""
        request_hash = require_hash(request.path_params["request_hash"])
        async for _ in request.stream():
            pass  # nothing is read later
        watcher = await self._watching.join(
            self._callers.of(request.scope),
            request_hash,
            after,
            beat=HEARTBEAT_SECONDS if form.beat else None,
        )

        async def leave_in(scope: Scope, receive: Receive, send: Send) -> None:
            scope[STREAM] = partial(self._stream, watcher, after, form)

        return leave_in

    async def _stream(self, watcher: Watcher, after: int, form: _Form, scope: Scope, send: Send) -> None:
        headers = [
            (b"content-type", form.content_type),
            (b"x-content-type-options", b"nosniff"),
            # nginx would keep the lines until it has enough of them.
            (b"x-accel-buffering", b"no"),
            # What is not read to its end is broken off, so nothing else may come on this connection.
            (b"connection", b"close"),
        ]
        try:
            async with self._connection(scope, send) as connection:
                connection.notice_the_end(watcher)
                await connection.send({"type": "http.response.start", "status": 200, "headers": headers})
                scope["headers"].clear()
                kept = {name: scope[name] for name in _KEPT if name in scope}
                scope.clear()
                scope.update(kept)
                if scope["method"] != "HEAD":
                    async for message in watcher.feed.follow(watcher, after):
                        if body := form.render(message) if message else form.beat:
                            await connection.send(
                                {"type": "http.response.body", "body": body, "more_body": True}
                            )
                await connection.send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._watching.leave(watcher)

    async def answer_socket(
        self, scope: Scope, receive: Receive, send: Send, request_id: bytes
    ) -> tuple[str, int]:
        """Answers a WebSocket to its end; the route and the HTTP status, for the counters."""
        found = _EVENTS_PATH.fullmatch(scope["path"])
        if found is None:
            await refuse_socket(_NOT_FOUND, send, request_id)
            return "unknown", 404

        await receive()  # websocket.connect
        async with self._connection(scope, send) as connection:
            await connection.send({"type": "websocket.accept", "headers": [(b"x-request-id", request_id)]})
            reads_details, watcher = False, None
            try:
                caller = self._callers.of(scope)
                reads_details = caller.may(Right.READ)
                after = _after(HTTPConnection(scope))
                scope.clear()
                watcher = await self._watching.join(caller, found[1], after)
                connection.notice_the_end(watcher)
                async for message in watcher.feed.follow(watcher, after):
                    assert message is not None  # no beat was asked for: the protocol's own pings are one
                    await connection.send_text(message.json)
                if refusal := watcher.feed.refusal:
                    sentence = sentence_of(refusal, details=reads_details)
                    await connection.close(_PRIVATE + status_of(refusal)[0], sentence)
                elif not watcher.gone:
                    await connection.close(1000, "")
            except AsuError as error:
                status, title = status_of(error)
                sentence = sentence_of(error, details=reads_details)
                await connection.send_text(render_problem_event(status, title, sentence).json)
                await connection.close(_PRIVATE + status, sentence)
                # It ends soon, or at once where many were refused.
                loop = asyncio.get_running_loop()
                if len(self._lingering) >= _MOST_LINGERING:
                    loop.call_later(_GONE_SECONDS, connection.abort)
                else:
                    self._lingering.add(connection)
                    loop.call_later(_LINGER_SECONDS, self._lingering.discard, connection)
            finally:
                if watcher is not None:
                    self._watching.leave(watcher)
        return EVENTS, 101

    def _connection(self, scope: Scope, send: Send) -> "_Connection":
        return _Connection(
            send, scope.get(ABORT) or (lambda: None), scope.get(CLIENT) or Client(), self._open, self._seconds
        )


class _Connection(Struct, eq=False):
    """One connection, with an end to each wait for the other side; `opened` holds those that are open."""

    _send: Send
    abort: Callable[[], object]
    _client: Client
    _opened: set["_Connection"]
    _seconds: float

    async def __aenter__(self) -> Self:
        self._opened.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._opened.discard(self)
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.abort)
        if not isinstance(error, OSError):
            return False
        # Gone, or does not read: nothing is kept for it, not even what the kernel would still send.
        self.abort()
        await asyncio.sleep(_GONE_SECONDS)
        return True

    def notice_the_end(self, watcher: Watcher) -> None:
        """Tells the watcher when the other side leaves; whatever it says is not looked at."""
        if self._client.gone:
            watcher.leave()
        self._client.on_gone.add(watcher.leave)

    async def send(self, message: AsgiMessage) -> None:
        """Raises `TimeoutError` when the other side does not read, `OSError` when it is gone."""
        async with asyncio.timeout(self._seconds):
            await self._send(message)

    async def send_text(self, text: str) -> None:
        """One message of a WebSocket."""
        await self.send({"type": "websocket.send", "text": text})

    async def close(self, code: int, reason: str) -> None:
        """Ends a WebSocket; a reason is cut to what its frame can hold."""
        reason = reason.encode()[:_LONGEST_REASON].decode("utf-8", "ignore")
        await self.send({"type": "websocket.close", "code": code, "reason": reason})


def _after(connection: HTTPConnection) -> int:
    text = connection.query_params.get("after", "") or "0"
    if not (text.isascii() and text.isdigit()):
        raise RequestRejected("after: expected the number of the last line that was seen")
    return int(text[:15])
