"""The middleware that every request passes: it answers from memory what it can, and counts and logs."""

import asyncio
import hashlib
import itertools
import logging
import os
import re
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asu_builder.domain.errors import NotAuthenticated
from asu_builder.http.api.builds import BODY, BuildAnswers, CachedResponse
from asu_builder.http.api.live import LiveEndpoints
from asu_builder.http.api.metrics import Requests
from asu_builder.http.api.wire import RenderedResponse, render_problem
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
            headers.append((b"x-request-id", self.request_id))
            if self._timed:
                headers.append((b"server-timing", b"app;dur=%.1f" % (self.seconds * 1e3)))
            if not keeps:
                headers.append(NO_STORE)
            if self._cors:
                headers.append(_ORIGIN)
            message["headers"] = headers
        elif message["type"] == "http.response.body":
            if self._head:
                message["body"] = b""
            self.complete = not message.get("more_body", False)
        await self._send(message)


class FastPath:
    """Answers polls and repeated requests from memory, and dispatches everything else."""

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
        self._callers = callers
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
        request_id, refusal = self._read_head(scope)
        if refusal is not None:
            await self._refuse(refusal, scope, send, request_id)
            return
        method: str = scope["method"]
        if path.startswith(BUILD_PREFIX) and method in ("GET", "HEAD"):
            cached = self._answers.get_cached(path[_HASH_AT:])
            if cached is not None:
                await self._send_cached(cached, _POLL_LABEL, scope, send, request_id)
                return
        elif path == BUILD and method == "POST":
            await self._post(scope, receive, send, request_id)
            return
        await self._dispatch(scope, receive, send, request_id)

    def _read_head(self, scope: Scope) -> tuple[bytes, RenderedResponse | None]:
        """The request's id, and the answer to an unknown token, which is the same on every route."""
        given, refusal = b"", None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = given or value
            elif name == b"authorization" and refusal is None:
                try:
                    self._callers.of(scope)
                except NotAuthenticated as error:
                    refusal = answer_error(error)
        return given if _SAFE_ID.fullmatch(given) else self._next_id(), refusal

    @staticmethod
    def takes_large_bodies(path: str) -> bool:
        """Whether whole build requests are sent to this path."""
        return _plain_path(path) in _LARGE_BODIES

    def turn_away(self, status: int) -> Headers:
        """Counts an answer that the server gave before there was a request; the headers it carries."""
        self.requests["unknown", "unknown", status] += 1
        return (*standing_headers(cors=self._cors), (b"x-request-id", self._next_id()))

    async def _post(self, scope: Scope, receive: Receive, send: Send, request_id: bytes) -> None:
        parts: list[bytes] = []
        more = True
        while more:
            try:
                message = await receive()
            except asyncio.CancelledError:
                # The server ends and does not wait for what never came; there is no one to answer.
                return
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))  # the server limits their size
            more = message.get("more_body", False)
        body = b"".join(parts)
        digest = hashlib.sha256(body).digest()
        cached = self._answers.get_cached_by_body(digest, scope)
        if cached is not None:
            await self._send_cached(cached, BUILD, scope, send, request_id)
            return
        scope[BODY] = body, digest
        await self._dispatch(scope, receive, send, request_id)

    async def _send_cached(
        self, cached: CachedResponse, route: str, scope: Scope, send: Send, request_id: bytes
    ) -> None:
        answer, method = cached.answer, scope["method"]
        headers = [*cached.headers, (b"x-request-id", request_id)]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})
        self.requests[method, route, answer.status] += 1
        if _log.isEnabledFor(logging.DEBUG):
            bind_log_context(request_id, scope["path"])
            _log.debug("%s %s %d from memory", method, route, answer.status)

    async def _refuse(self, answer: RenderedResponse, scope: Scope, send: Send, request_id: bytes) -> None:
        """Answers what no handler sees."""
        bind_log_context(request_id, scope["path"])
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
        self._count("unknown", answer.status, scope)

    async def _preflight(self, scope: Scope, send: Send, request_id: bytes) -> None:
        bind_log_context(request_id, scope["path"])
        headers: list[tuple[bytes, bytes]] = [(b"allow", _METHODS), (b"x-request-id", request_id)]
        if self._cors:
            headers += [_ORIGIN, *_PREFLIGHT]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        self._count("any", 204, scope)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send, request_id: bytes) -> None:
        """Through the router; every answer gets our headers."""
        if scope["method"] == "OPTIONS":
            await self._preflight(scope, send, request_id)
            return
        if _HIDDEN.search(scope.get("raw_path") or b""):
            await self._refuse(_NOT_FOUND, scope, send, request_id)
            return
        WAITS_FOR.set(scope.get(CLIENT))
        recorder = ResponseRecorder(scope, send, request_id=request_id, cors=self._cors)
        bind_log_context(request_id, scope["path"])
        try:
            await self._app(scope, receive, recorder.send)
        except ClientDisconnect:
            recorder.status = _CLIENT_GONE
        except Exception:
            _log.exception("request %s failed: a bug", request_id.decode())
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

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket; any origin may open one, because nothing but the hash in its address is a key."""
        request_id, refusal = self._read_head(scope)
        scope["path"] = _plain_path(scope["path"])
        bind_log_context(request_id, scope["path"])
        if _HIDDEN.search(scope.get("raw_path") or b""):
            scope["path"] = ""
        route, status = "unknown", 500
        try:
            if refusal is not None:
                status = refusal.status
                await refuse_socket(refusal, send, request_id)
            else:
                route, status = await self._live.socket(scope, receive, send, request_id)
        except Exception:  # noqa: BLE001 - the server would only write it down a second time
            _log.exception("request %s failed: a bug", request_id.decode())
        finally:
            self.requests["GET", route, status] += 1
        _log.debug("WebSocket %s %d", route, status)

    def _next_id(self) -> bytes:
        return b"%s-%x" % (self._prefix, next(self._numbers))


def _plain_path(path: str) -> str:
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def bind_log_context(request_id: bytes, path: str) -> None:
    """Says which request and which build the lines are about that this task logs from now on."""
    REQUEST_ID.set(request_id.decode())
    found = _HASH.search(path)
    # Also where there is none: a request that was sent behind another begins in its context.
    CURRENT_HASH.set(found[1] if found else "")
