"""What every request passes, and the short way for answers already rendered."""

import asyncio
import itertools
import logging
import os
import re
import time
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asu_builder.domain.errors import NotAuthenticated
from asu_builder.http.api.builds import BuildAnswers, CachedResponse
from asu_builder.http.api.live import LiveEndpoints
from asu_builder.http.api.metrics import Requests
from asu_builder.http.api.wire import Answer, render_problem
from asu_builder.http.callers import Callers
from asu_builder.http.door import CLIENT, NO_STORE, refuse_socket
from asu_builder.http.errors import answer_error
from asu_builder.http.waiting import WAITS_FOR, Waiting
from asu_builder.log_context import CURRENT_HASH, REQUEST_ID

BUILD = "/api/v1/build"
BUILD_PREFIX = f"{BUILD}/"
_ORIGIN = (b"access-control-allow-origin", b"*")
_LARGE_BODIES = (BUILD, "/api/v1/packages/preview", "/build")
"""Where whole build requests are sent; the others take small forms, or no body at all."""
_HASH_AT = len(BUILD_PREFIX)
_POST_LABEL = ("POST", BUILD)
_POLL_LABEL = BUILD_PREFIX + "{request_hash}"

_METHODS = b"GET, HEAD, POST, DELETE, OPTIONS"
_PREFLIGHT = (
    (b"access-control-allow-methods", _METHODS),
    # Both forms: old browsers do not know the star, and forks send headers of their own.
    (b"access-control-allow-headers", b"Content-Type, Authorization, X-Cancel-Token, *"),
    (b"access-control-max-age", b"86400"),
)
_SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HIDDEN = re.compile(rb"%(?:2f|5c|00)", re.IGNORECASE)
_HASH = re.compile(r"/([0-9a-f]{64})(?=/|$)")
_SLASHES = re.compile(r"/{2,}")
_NOT_FOUND = render_problem(404, "Not Found", "Nothing lives at this address.")

_CLIENT_GONE = 499
"""As nginx counts a client that left before its answer; nothing is sent."""
_SLOW_SECONDS = 1.0
"""An answer that begins later than this is worth a warning."""


_log = logging.getLogger(__name__)

Headers = tuple[tuple[bytes, bytes], ...]


def standing_headers(*, cors: bool) -> Headers:
    """What every answer below /api carries, apart from the request id."""
    return (NO_STORE, _ORIGIN) if cors else (NO_STORE,)


class ResponseRecorder:
    """Adds to one answer what every answer carries, and notes its status and how long it took."""

    def __init__(self, scope: Scope, send: Send, *, request_id: bytes, cors: bool) -> None:
        self._send = send
        self._head = scope["method"] == "HEAD"
        self._private = scope["path"].startswith("/api/")
        self._timed = scope["path"] == BUILD or scope["path"].startswith(BUILD_PREFIX)
        self._began = time.perf_counter()
        self._cors = cors
        self.request_id = request_id
        self.status = 500
        self.complete = False
        self.seconds = 0.0
        """From the request to the beginning of its answer."""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.seconds = time.perf_counter() - self._began
            headers = list(message.get("headers", ()))
            keeps = not self._private and any(name == b"cache-control" for name, _ in headers)
            message["headers"] = [*headers, *self._additions(keeps=keeps)]
        elif message["type"] == "http.response.body":
            if self._head:
                message["body"] = b""
            self.complete = not message.get("more_body", False)
        await self._send(message)

    def _additions(self, *, keeps: bool) -> list[tuple[bytes, bytes]]:
        additions = [(b"x-request-id", self.request_id)]
        if self._timed:
            additions.append((b"server-timing", b"app;dur=%.1f" % (self.seconds * 1e3)))
        if not keeps:
            additions.append(NO_STORE)
        if self._cors:
            additions.append(_ORIGIN)
        return additions


class FastPath:
    """Answers from memory what it can, and sees everything else in and out."""

    def __init__(
        self,
        app: ASGIApp,
        answers: BuildAnswers,
        *,
        callers: Callers,
        cors: bool,
        live: LiveEndpoints,
        waiting: Waiting,
        requests: Requests,
    ) -> None:
        """`requests` is counted up with each answer, by method, route and status."""
        self._app = app
        self._live = live
        self._waiting = waiting
        self._answers = answers
        self._askers = callers
        self._cors = cors
        self._numbers = itertools.count()
        self._prefix = os.urandom(4).hex().encode()
        self.requests = requests

    def end_streams(self) -> None:
        """For the server when it stops: what would last, and what waits for upstream."""
        self._live.stop()
        self._waiting.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's start and end."""
        if scope["type"] != "http":
            await (self._open(scope, receive, send) if "path" in scope else self._app(scope, receive, send))
            return
        path: str = scope["path"]
        if "//" in path or path[-1:] == "/":
            path = scope["path"] = _plain_path(path)
        if (refusal := self._wrong_token(scope)) is not None:
            await self._send(refusal, "unknown", scope, send)
            return
        method: str = scope["method"]
        if path.startswith(BUILD_PREFIX) and method in ("GET", "HEAD"):
            kept = self._answers.get_cached(path[_HASH_AT:])
            if kept is not None:
                await self._send_kept(kept, _POLL_LABEL, scope, send)
                return
        elif path == BUILD and method == "POST":
            await self._post(scope, receive, send)
            return
        await self._dispatch(scope, receive, send)

    def _wrong_token(self, scope: Scope) -> Answer | None:
        """The answer to a token that nobody was given: the same on every route, for whoever mistyped."""
        if not any(name == b"authorization" for name, _ in scope["headers"]):
            return None
        try:
            self._askers.of(scope)
        except NotAuthenticated as error:
            return answer_error(error)
        return None

    @staticmethod
    def takes_large_bodies(path: str) -> bool:
        """Whether whole build requests are sent to this path."""
        return _plain_path(path) in _LARGE_BODIES

    def turn_away(self, status: int) -> Headers:
        """Counts an answer that the server gave before there was a request; the headers it carries."""
        self.requests["unknown", "unknown", status] += 1
        return (*standing_headers(cors=self._cors), (b"x-request-id", self._next_id()))

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await _read_body(receive)
        except asyncio.CancelledError:
            # The server ends and does not wait for what never came; there is nobody to answer.
            return
        if body is None:
            return
        agent = _header(scope, b"user-agent").decode("latin-1")
        kept = self._answers.get_cached_by_body(body, agent, lambda: self._askers.of(scope))
        if kept is not None:
            await self._send_kept(kept, BUILD, scope, send)
            return

        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(messages, None) or await receive()

        await self._dispatch(scope, replay, send)

    async def _send_kept(self, kept: CachedResponse, route: str, scope: Scope, send: Send) -> None:
        answer = kept.answer
        method = scope["method"]
        request_id = self._request_id(scope)
        headers = [*kept.headers, (b"x-request-id", request_id)]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})
        self.requests[method, route, answer.status] += 1
        if _log.isEnabledFor(logging.DEBUG):
            self._tell(request_id, scope)
            _log.debug("%s %s %d from memory", method, route, answer.status)

    async def _send(self, answer: Answer, route: str, scope: Scope, send: Send) -> None:
        """An answer of the front door's own."""
        request_id = self._request_id(scope)
        self._tell(request_id, scope)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(answer.body)),
            *answer.headers,
            *standing_headers(cors=self._cors),
            (b"x-request-id", request_id),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})
        self._count(route, answer.status, scope)

    async def _preflight(self, scope: Scope, send: Send) -> None:
        request_id = self._request_id(scope)
        self._tell(request_id, scope)
        headers: list[tuple[bytes, bytes]] = [(b"allow", _METHODS), (b"x-request-id", request_id)]
        if self._cors:
            headers += [_ORIGIN, *_PREFLIGHT]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        self._count("any", 204, scope)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The long way, through the router; nothing comes back without our headers."""
        if scope["method"] == "OPTIONS":
            await self._preflight(scope, send)
            return
        if _HIDDEN.search(scope.get("raw_path") or b""):
            await self._send(_NOT_FOUND, "unknown", scope, send)
            return
        WAITS_FOR.set(scope.get(CLIENT))
        recorder = ResponseRecorder(scope, send, request_id=self._request_id(scope), cors=self._cors)
        self._tell(recorder.request_id, scope)
        try:
            await self._app(scope, receive, recorder.send)
        except ClientDisconnect:
            recorder.status = _CLIENT_GONE
        except Exception:
            _log.exception("request %s failed: a bug", recorder.request_id.decode())
            if not recorder.complete:
                raise
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self._count(route, recorder.status, scope)
            if recorder.seconds > _SLOW_SECONDS and recorder.status != _CLIENT_GONE:
                _log.warning(
                    "%s %s %d began only after %.1f s",
                    scope["method"],
                    route,
                    recorder.status,
                    recorder.seconds,
                )

    def _count(self, route: str, status: int, scope: Scope) -> None:
        self.requests[scope["method"], route, status] += 1
        _log.debug("%s %s %d", scope["method"], route, status)

    def _tell(self, request_id: bytes, scope: Scope) -> None:
        """Says what the lines are about that this request's task logs from now on."""
        REQUEST_ID.set(request_id.decode())
        found = _HASH.search(scope["path"])
        # Also where there is none: a request that was sent behind another begins in its context.
        CURRENT_HASH.set(found[1] if found else "")

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket; any origin may open one, because nothing but the hash in its address is a key."""
        request_id = self._request_id(scope)
        scope["path"] = _plain_path(scope["path"])
        self._tell(request_id, scope)
        if _HIDDEN.search(scope.get("raw_path") or b""):
            scope["path"] = ""
        route, status = "unknown", 500
        try:
            if (refusal := self._wrong_token(scope)) is not None:
                status = refusal.status
                await refuse_socket(refusal, send, request_id)
            else:
                route, status = await self._live.socket(scope, receive, send, request_id)
        except Exception:  # noqa: BLE001 - the server would only write it down a second time
            _log.exception("request %s failed: a bug", request_id.decode())
        finally:
            self.requests["GET", route, status] += 1
        _log.debug("WebSocket %s %d", route, status)

    def _request_id(self, scope: Scope) -> bytes:
        given = _header(scope, b"x-request-id")
        return given if _SAFE_ID.fullmatch(given) else self._next_id()

    def _next_id(self) -> bytes:
        return b"%s-%x" % (self._prefix, next(self._numbers))


def _plain_path(path: str) -> str:
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def _header(scope: Scope, name: bytes) -> bytes:
    found: Any = next((value for key, value in scope["headers"] if key == name), b"")
    return bytes(found)


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, whose size the server limits; None when the client has gone."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
