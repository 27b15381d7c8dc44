"""The middleware that every request passes: it answers from memory what it can, and counts and logs."""

import asyncio
import itertools
import logging
import os
import re
import time
from collections.abc import Iterable
from contextvars import copy_context
from typing import TYPE_CHECKING
from zlib import crc32

from msgspec import Struct, field
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from asu_builder.domain.errors import AsuError, NotAuthenticated, Unavailable
from asu_builder.http.answer_cache import CachedResponse, LruByteCache
from asu_builder.http.api.builds import BODY, BuildAnswers, RequestScope, is_request_hash
from asu_builder.http.api.live import STREAM, LiveEndpoints
from asu_builder.http.api.wire import RenderedResponse, render_problem
from asu_builder.http.callers import Callers
from asu_builder.http.door import (
    CLIENT,
    LOWEST_BODY,
    NO_STORE,
    RAW_HEAD,
    TAKE,
    WRITE,
    ClientGone,
    Door,
    Headers,
    refuse_socket,
)
from asu_builder.http.errors import INTERNAL, answer_error
from asu_builder.http.threads import WAITS_FOR, Waiting
from asu_builder.log_context import CURRENT_HASH, REQUEST_ID
from asu_builder.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from asu_builder.http.api.monitoring import Requests

BUILD = "/api/v1/build"
BUILD_PREFIX = f"{BUILD}/"
_ORIGIN = (b"access-control-allow-origin", b"*")
_LARGE_BODIES = (BUILD, "/api/v1/packages/preview", "/build")
"""Where whole build requests are sent; the others take small forms, or no body at all."""
_HASH_AT = len(BUILD_PREFIX)
_POLL_LABEL = BUILD_PREFIX + "{request_hash}"
_STATS = "/api/v1/stats"
_READS = ("GET", "HEAD")

_HEADS_BYTES = 1 << 20
_LARGEST_HEAD = 8 << 10
_OVERHEAD = 500
"""About what a head takes beside its bytes."""
_OF_ONE_REQUEST = re.compile(
    rb"\r\n[Xx]-(?:[Rr]equest-[Ii][Dd]: ?([A-Za-z0-9._-]{1,64})|[Ff]orwarded-[Ff]or:[0-9A-Fa-f.:, ]*)"
    rb"(?=\r\n[^ \t])"
)
"""Lines of a head that proxies write differently for each request. A result is the same for every caller."""

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

_STOPPING = answer_error(Unavailable("This server is being stopped. Try again in a moment.", plain=True))
_CLIENT_GONE = 499
"""As nginx counts a client that left before its answer; nothing is sent."""
_SLOW_SECONDS = 1.0
"""An answer that begins later than this is worth a warning."""


_log = logging.getLogger(__name__)


def standing_headers(*, cors: bool) -> Headers:
    """What every answer below /api carries, apart from the request id."""
    return (NO_STORE, _ORIGIN) if cors else (NO_STORE,)


class ResponseRecorder(Struct):
    """Adds to one answer what every answer carries, and notes its status and how long it took."""

    scope: "Scope"
    pass_on: "Send"
    request_id: bytes
    cors: bool
    began: float = field(default_factory=time.perf_counter)
    status: int = 500
    complete: bool = False
    seconds: float = 0.0
    """From the request to the beginning of its answer."""

    def add_headers(self, message: "Message") -> None:
        """To the start of the answer, whose status and time are noted."""
        self.status = message["status"]
        self.seconds = time.perf_counter() - self.began
        path = self.scope["path"]
        headers = list(message.get("headers", ()))
        keeps = not path.startswith("/api/") and any(name == b"cache-control" for name, _ in headers)
        headers.append((b"x-request-id", self.request_id))
        if path == BUILD or path.startswith(BUILD_PREFIX):
            headers.append((b"server-timing", b"app;dur=%.1f" % (self.seconds * 1e3)))
        if not keeps:
            headers.append(NO_STORE)
        if self.cors:
            headers.append(_ORIGIN)
        message["headers"] = headers

    async def send(self, message: "Message") -> None:
        if message["type"] == "http.response.start":
            self.add_headers(message)
        elif message["type"] == "http.response.body":
            if self.scope["method"] == "HEAD":
                message["body"] = b""
            self.complete = not message.get("more_body", False)
        await self.pass_on(message)

    async def send_whole(self, answer: RenderedResponse) -> None:
        """The same for an answer of ours that is whole; in one piece where the server can."""
        start: Message = {
            "type": "http.response.start",
            "status": answer.status,
            "headers": answer.all_headers(),
        }
        body = b"" if self.scope["method"] == "HEAD" else answer.body
        write = self.scope.get(WRITE)
        self.add_headers(start)
        if write is not None:
            head = b"".join(b"%b: %b\r\n" % header for header in start["headers"])
            if write(self.scope, b"%b%b\r\n%b" % (STATUS_LINE[self.status], head, body)):
                self.complete = True
                return
        await self.pass_on(start)
        self.complete = True
        await self.pass_on({"type": "http.response.body", "body": body})


class _KnownHead(Struct, frozen=True):
    """What the head of a POST said that was answered with a result."""

    user_agent: str
    body_key: int
    """The CRC of the body that came last with it."""
    length: int
    """Bytes of the body, as the head says."""


class FastPath:
    """Answers polls and repeated requests from memory, and dispatches everything else."""

    def __init__(
        self,
        app: "ASGIApp",
        answers: BuildAnswers,
        *,
        callers: Callers,
        cors: bool,
        live: LiveEndpoints,
        waiting: Waiting,
        requests: "Requests",
    ) -> None:
        """`requests` is counted up with each answer, by method, route and status."""
        self._app = app
        self._live = live
        self._waiting = waiting
        self._answers = answers
        self._callers = callers
        self._cors = cors
        self._id = os.urandom(4).hex().encode() + b"-%x"
        self._numbers = itertools.count()
        self.requests = requests
        self._heads: LruByteCache[bytes, _KnownHead] = LruByteCache(
            budget=_HEADS_BYTES, largest=_LARGEST_HEAD
        )

    def end_streams(self) -> None:
        """For the server when it stops: what would last, and what waits for upstream."""
        self._live.stop()
        self._waiting.stop()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """One request, or the server's start and end."""
        if "path" not in scope:
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if "//" in path or path[-1:] == "/":
            path = scope["path"] = _plain_path(path)
        given, refusal = b"", None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = given or value
            elif name == b"authorization" and refusal is None:
                try:
                    self._callers.of(scope)
                except NotAuthenticated as error:
                    # The same on every route.
                    refusal = answer_error(error)
        request_id = given if given and _SAFE_ID.fullmatch(given) else self._id % next(self._numbers)
        if scope["type"] != "http":
            await self._open(scope, receive, send, request_id, refusal)
            return
        if refusal is not None:
            await self._refuse(refusal, scope, send, request_id)
            return
        method: str = scope["method"]
        if path.startswith(BUILD_PREFIX) and method in _READS:
            cached, route = self._answers.get_cached(path[_HASH_AT:]), _POLL_LABEL
        elif path == BUILD and method == "POST":
            take = scope.get(TAKE)
            body = (take and take(scope)) or await _read_body(receive)
            if body is None:
                return
            scope[BODY] = body
            cached, route = self._answers.get_cached_by_body(body, scope), BUILD
        elif path == _STATS and method in _READS:
            cached, route = self._answers.polled.queue_length(), _STATS
        else:
            cached, route = None, ""
        if cached is None:
            await self._dispatch(scope, receive, send, request_id)
            return
        in_one_piece = await self._answer_cached(cached, scope, send, request_id=request_id, route=route)
        if in_one_piece and route == BUILD and cached.status == 200 and RAW_HEAD in scope:
            self._note_head(scope)

    def known_answer(self, head: bytes, body: bytes) -> bytes | None:
        """The whole answer to a POST of these bytes, if its head came before and its body has a result.

        b"" where the rest of the body is to come. The answer is counted as given. It depends on these bytes
        alone: the token in the head was good, and a result is told to everybody.
        """
        lasting, *ids = _head_and_ids(head)
        known = self._heads.get(lasting)
        if known is None or len(ids) > 1:
            return None
        if len(body) < known.length <= LOWEST_BODY:
            return b""
        cached = self._answers.get_cached_again(known.body_key, body, known.user_agent)
        if cached is None:
            return None
        request_id = ids[0] if ids else self._id % next(self._numbers)
        # There is no task yet whose log lines would be about this request alone.
        copy_context().run(self._count, "POST", BUILD, cached.status, BUILD, request_id, " from memory")
        return b"%sx-request-id: %b\r\n\r\n%b" % (cached.head, request_id, cached.body)

    def _note_head(self, scope: "Scope") -> None:
        """Remembers what `known_answer` needs of a request that was answered with a result."""
        lasting = _head_and_ids(scope[RAW_HEAD])[0]
        if b"\r\nx-request-id:" in lasting.lower():
            return  # which one counts is the ordinary way's business
        agents = (value for name, value in scope["headers"] if name == b"user-agent")
        agent = next(agents, b"").decode("latin-1")
        body = scope[BODY]
        self._heads.put(lasting, _KnownHead(agent, crc32(body), len(body)), len(lasting) + _OVERHEAD)

    def door(self, limits: Settings) -> Door:
        """What the server asks about connections and requests to this application."""
        return Door(
            limits,
            counted_as=self._callers.counted_as,
            large_bodies=self.takes_large_bodies,
            refuse=self.turn_away,
            known_answer=self.known_answer,
        )

    @staticmethod
    def takes_large_bodies(path: str) -> bool:
        """Whether whole build requests are sent to this path."""
        return _plain_path(path) in _LARGE_BODIES

    def turn_away(self, status: int) -> Headers:
        """Counts an answer that the server gave before there was a request; the headers it carries."""
        self.requests["unknown", "unknown", status] += 1
        return (*standing_headers(cors=self._cors), (b"x-request-id", self._id % next(self._numbers)))

    async def _answer_cached(
        self, cached: CachedResponse, scope: "Scope", send: "Send", *, request_id: bytes, route: str
    ) -> bool:
        """Sends what is known; at once and in one piece where the server can. Whether it could."""
        method = scope["method"]
        body = b"" if method == "HEAD" else cached.body
        write = scope.get(WRITE)
        in_one_piece = write is not None and write(
            scope, b"%sx-request-id: %b\r\n\r\n%b" % (cached.head, request_id, body)
        )
        if not in_one_piece:
            lines = (line.partition(b": ") for line in cached.head.splitlines()[1:])
            headers = [*((name, value) for name, _, value in lines), (b"x-request-id", request_id)]
            await send({"type": "http.response.start", "status": cached.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        self._count(method, route, cached.status, scope["path"], request_id, " from memory")
        return in_one_piece

    async def _answer(
        self,
        answer: RenderedResponse,
        headers: Iterable[tuple[bytes, bytes]],
        scope: "Scope",
        send: "Send",
        *,
        request_id: bytes,
        route: str,
    ) -> None:
        """Sends what no handler makes; `headers` are all there are."""
        method = scope["method"]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})
        self._count(method, route, answer.status, scope["path"], request_id)

    def _count(
        self, method: str, route: str, status: int, path: str, request_id: bytes, source: str = ""
    ) -> None:
        self.requests[method, route, status] += 1
        if _log.isEnabledFor(logging.DEBUG):
            bind_log_context(request_id, path)
            _log.debug("%s %s %d%s", method, route, status, source)

    async def _refuse(
        self, answer: RenderedResponse, scope: "Scope", send: "Send", request_id: bytes
    ) -> None:
        headers = (
            *answer.all_headers(),
            *standing_headers(cors=self._cors),
            (b"x-request-id", request_id),
        )
        await self._answer(answer, headers, scope, send, request_id=request_id, route="unknown")

    async def _dispatch(self, scope: "Scope", receive: "Receive", send: "Send", request_id: bytes) -> None:
        """Through the router; every answer gets our headers."""
        if scope["method"] == "OPTIONS":
            cors = (_ORIGIN, *_PREFLIGHT) if self._cors else ()
            headers = ((b"allow", _METHODS), (b"x-request-id", request_id), *cors)
            answer = RenderedResponse(204, b"")
            await self._answer(answer, headers, scope, send, request_id=request_id, route="any")
            return
        if _HIDDEN.search(scope.get("raw_path") or b""):
            await self._refuse(_NOT_FOUND, scope, send, request_id)
            return
        WAITS_FOR.set(scope.get(CLIENT))
        recorder = ResponseRecorder(scope, send, request_id, self._cors)
        bind_log_context(request_id, scope["path"])
        route = self._build_route(scope)
        try:
            if route:
                await self._answer_build(scope, recorder)
            else:
                await self._app(scope, receive, recorder.send)
            if STREAM in scope:
                await scope[STREAM](scope, recorder.send)
        except ClientGone:
            recorder.status = _CLIENT_GONE
        except asyncio.CancelledError:
            # A server that stops has waited long enough for what hangs.
            if recorder.seconds:
                raise
            await recorder.send_whole(_STOPPING)
        except Exception:
            _log.exception("request %s failed: a bug", request_id.decode())
            if not recorder.complete:
                raise
        finally:
            route = route or getattr(scope.get("route"), "path", "unknown")
            self.requests[scope["method"], route, recorder.status] += 1
            _log.debug("%s %s %d", scope["method"], route, recorder.status)
            if recorder.seconds > _SLOW_SECONDS and recorder.status != _CLIENT_GONE:
                _log.warning(
                    "%s %s %d began only after %.1f s",
                    scope["method"],
                    route,
                    recorder.status,
                    recorder.seconds,
                )

    @staticmethod
    def _build_route(scope: "Scope") -> str:
        """The route of what submits or polls, whose placeholder is put into the scope as by the router."""
        path, method = scope["path"], scope["method"]
        if path == BUILD and method == "POST":
            return BUILD
        if path.startswith(BUILD_PREFIX) and method in _READS and is_request_hash(path[_HASH_AT:]):
            scope["path_params"] = {"request_hash": path[_HASH_AT:]}
            return _POLL_LABEL
        return ""

    async def _answer_build(self, scope: "Scope", recorder: ResponseRecorder) -> None:
        """Answers without the router: it and its wrappers cost as much as the answer."""
        on_build = self._answers.on_post if scope["method"] == "POST" else self._answers.on_get
        try:
            answer = await on_build(RequestScope(scope))
        except ClientGone:
            raise
        except Exception as error:
            answer = INTERNAL
            if isinstance(error, AsuError):
                answer = answer_error(error, details=self._callers.may_read(scope))
            await recorder.send_whole(answer)
            if answer is INTERNAL:
                raise
        else:
            await recorder.send_whole(answer)

    async def _open(
        self,
        scope: "Scope",
        receive: "Receive",
        send: "Send",
        request_id: bytes,
        refusal: RenderedResponse | None,
    ) -> None:
        """A WebSocket; any origin may open one, because nothing but the hash in its address is a key."""
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


async def _read_body(receive: "Receive") -> bytes | None:
    """The whole body, whose size the server limits; None where no one waits for an answer any more."""
    parts: list[bytes] = []
    more = True
    while more:
        try:
            message = await receive()
        except asyncio.CancelledError:
            return None  # the server ends and does not wait for what never came
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _head_and_ids(head: bytes) -> list[bytes]:
    """A head without what is of one request alone, and each id that it gives."""
    parts = _OF_ONE_REQUEST.split(head)
    return [b"".join(parts[::2]), *filter(None, parts[1::2])]


def _plain_path(path: str) -> str:
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def bind_log_context(request_id: bytes, path: str) -> None:
    """Says which request and which build the lines are about that this task logs from now on."""
    REQUEST_ID.set(request_id.decode())
    found = _HASH.search(path)
    # Also where there is none: a request that was sent behind another begins in its context.
    CURRENT_HASH.set(found[1] if found else "")
