"""How watchers are told: by WebSocket, as server-sent events, or as plain text."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from functools import partial

from msgspec import Struct
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from asu_builder.core.live import LiveBuilds
from asu_builder.domain.access import Right
from asu_builder.domain.errors import AsuError, RequestRejected
from asu_builder.http.api.builds import require_hash
from asu_builder.http.api.live import EVENTS, Message, WatchLimits, render_problem_event, render_text
from asu_builder.http.api.watchers import Watcher, Watching
from asu_builder.http.api.wire import render_problem
from asu_builder.http.callers import Callers
from asu_builder.http.door import ABORT, refuse_socket
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
        self._open: set[Callable[[], object]] = set()
        self._lingering: set[_Connection] = set()

    @property
    def watchers(self) -> int:
        """How many are open."""
        return self._watching.count

    def stop(self) -> None:
        """Ends every stream; those whose other side does not read are broken off half a second later."""
        self._watching.stop()

        def break_off() -> None:
            for abort in list(self._open):
                abort()

        asyncio.get_running_loop().call_later(_HURRY_SECONDS, break_off)

    async def events(self, request: Request) -> ASGIApp:
        """Server-sent events; a client that comes back says by `Last-Event-ID` where it was."""
        seen = request.headers.get("last-event-id", "")
        after = int(seen[:15]) if seen.isascii() and seen.isdigit() else _after(request)
        return partial(self._stream, require_hash(request.path_params["request_hash"]), after, _EVENTS)

    async def log(self, request: Request) -> ASGIApp:
        """The lines there are, or with `follow` also those that will come."""
        request_hash, after = require_hash(request.path_params["request_hash"]), _after(request)
        if request.query_params.get("follow", "0") not in ("", "0"):
            return partial(self._stream, request_hash, after, _TEXT)

        def whole() -> bytes:
            return render_text(self._source.whole(request_hash, after=after)).encode()

        return PlainTextResponse(
            await self._threads.run(whole), headers={"x-content-type-options": "nosniff"}
        )

    async def _stream(
        self, request_hash: str, after: int, form: _Form, scope: Scope, receive: Receive, send: Send
    ) -> None:
        caller = self._callers.of(scope)
        headers = [
            (b"content-type", form.content_type),
            (b"x-content-type-options", b"nosniff"),
            # nginx would keep the lines until it has enough of them.
            (b"x-accel-buffering", b"no"),
            # What is not read to its end is broken off, so nothing else may come on this connection.
            (b"connection", b"close"),
        ]
        async with self._watching.watched(caller, request_hash, after) as (feed, watcher):
            connection = _Connection(scope, receive, send, seconds=self._seconds)
            async with self._kept_open(connection):
                await connection.send({"type": "http.response.start", "status": 200, "headers": headers})
                if scope["method"] != "HEAD":
                    async with connection.listening(watcher):
                        async for message in feed.follow(watcher, after, beat=HEARTBEAT_SECONDS):
                            if body := form.render(message) if message else form.beat:
                                await connection.send(
                                    {"type": "http.response.body", "body": body, "more_body": True}
                                )
                await connection.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer_socket(
        self, scope: Scope, receive: Receive, send: Send, request_id: bytes
    ) -> tuple[str, int]:
        """Answers a WebSocket to its end; the route and the HTTP status, for the counters."""
        found = _EVENTS_PATH.fullmatch(scope["path"])
        if found is None:
            await refuse_socket(_NOT_FOUND, send, request_id)
            return "unknown", 404

        async def named(message: AsgiMessage) -> None:
            if message["type"] == "websocket.accept":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        await receive()  # websocket.connect
        connection = _Connection(scope, receive, named, seconds=self._seconds)
        async with self._kept_open(connection):
            await connection.send({"type": "websocket.accept"})
            reads_details = False
            try:
                caller = self._callers.of(scope)
                reads_details = caller.may(Right.READ)
                after = _after(HTTPConnection(scope))
                async with (
                    self._watching.watched(caller, found[1], after) as (feed, watcher),
                    connection.listening(watcher),
                ):
                    async for message in feed.follow(watcher, after):
                        assert message is not None  # no beat was asked for: the protocol's own pings are one
                        await connection.send_text(message.json)
                    if feed.refusal:
                        sentence = sentence_of(feed.refusal, details=reads_details)
                        await connection.close(_PRIVATE + status_of(feed.refusal)[0], sentence)
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
        return EVENTS, 101

    @contextlib.asynccontextmanager
    async def _kept_open(self, connection: "_Connection") -> AsyncIterator[None]:
        self._open.add(connection.abort)
        try:
            yield
        except (OSError, TimeoutError):
            # Gone, or does not read: nothing is kept for it, not even what the kernel would still send.
            connection.abort()
            await asyncio.sleep(_GONE_SECONDS)
        finally:
            self._open.discard(connection.abort)
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, connection.abort)


class _Connection:
    """One connection, with an end to each wait for the other side."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, seconds: float) -> None:
        self._receive = receive
        self._send = send
        self._seconds = seconds
        self.abort: Callable[[], object] = scope.get(ABORT) or (lambda: None)

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

    @contextlib.asynccontextmanager
    async def listening(self, watcher: Watcher) -> AsyncIterator[None]:
        """Notices meanwhile when the other side leaves; whatever it says is not looked at."""

        async def listen() -> None:
            while not (await self._receive())["type"].endswith("disconnect"):
                pass
            watcher.leave()

        task = asyncio.get_running_loop().create_task(listen())
        try:
            yield
        finally:
            task.cancel()


def _after(connection: HTTPConnection) -> int:
    text = connection.query_params.get("after", "") or "0"
    if not (text.isascii() and text.isdigit()):
        raise RequestRejected("after: expected the number of the last line that was seen")
    return int(text[:15])
