"""The web application: the fast path, what it needs at once, and the router, which is loaded late.

Beside it the small one of a process that has workers and answers only those who monitor it.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING

from asu_builder.http.api.builds import BuildAnswers
from asu_builder.http.api.live import LiveEndpoints
from asu_builder.http.door import ClientGone, Door
from asu_builder.http.fast_path import FastPath, standing_headers
from asu_builder.http.threads import Threads, Waiting
from asu_builder.loading import Late

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from asu_builder.http.api.monitoring import Requests
    from asu_builder.http.api.streams import LiveStreams
    from asu_builder.http.parts import Parts
    from asu_builder.settings import Settings

_READING_THREADS = 4
"""Apart from the one that submits. None of them ever waits for upstream."""
MONITORED = ("/health", "/metrics")
_ROUTER_AFTER_SECONDS = 0.25
"""When the router is loaded if no request needs it before."""


def create_app(parts: "Parts") -> FastPath:
    """The application for an ASGI server."""
    reading = Threads(_READING_THREADS, name="web-read")
    submitting = Threads(1, name="web-submit")
    waiting = Waiting(reading, admit=parts.limit_fetches)
    callers = parts.callers
    answers = BuildAnswers(
        parts.builds,
        callers=callers,
        reading=reading,
        submitting=submitting,
        waiting=waiting,
        statistics=parts.statistics,
        standing_headers=standing_headers(cors=parts.settings.cors),
        clock=parts.clock,
        revoked=parts.revoked,
        listen=parts.live.listen,
        ends=parts.ends,
        shared=parts.shared_answers,
    )
    requests: Requests = Counter()
    live = LiveEndpoints(partial(_load_streams, parts, reading, answers))

    @contextlib.asynccontextmanager
    async def life() -> AsyncIterator[None]:
        parts.start()
        try:
            yield
        finally:
            answers.polled.stop()
            await reading.run(answers.polled.close)
            await reading.run(parts.stop)
            reading.close()
            submitting.close()

    router = Late(partial(_load_router, parts, answers, live=live, waiting=waiting, requests=requests))
    return FastPath(
        LateRouter(router, reading, life),
        answers,
        callers=callers,
        cors=parts.settings.cors,
        live=live,
        waiting=waiting,
        requests=requests,
    )


class LateRouter:
    """Starts and ends the application, and passes requests to the router; the first waits until it is loaded.

    A start does without it: that takes a quarter of what the service itself loads.
    """

    def __init__(
        self,
        router: "Late[ASGIApp]",
        threads: Threads,
        life: Callable[[], contextlib.AbstractAsyncContextManager[None]],
    ) -> None:
        """`life` is entered before the port answers and left when the last answer has left."""
        self._router = router
        self._threads = threads
        self._life = life
        self._loading: asyncio.Future[ASGIApp] | None = None

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """One request, or the start and the end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        router = self._router.value
        if router is None:
            router = await asyncio.shield(self._load())
        await router(scope, receive, send)

    def _load(self) -> "asyncio.Future[ASGIApp]":
        """One call, in one thread, for all who wait for it."""
        if self._loading is None or self._loading.done():
            self._loading = self._threads.run(self._router)
        return self._loading

    async def _live(self, receive: "Receive", send: "Send") -> None:
        """What fails here is logged by the server, which then ends."""
        await receive()
        async with self._life():
            later = asyncio.get_running_loop().call_later(_ROUTER_AFTER_SECONDS, self._load)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            later.cancel()
        await send({"type": "lifespan.shutdown.complete"})


def _load_router(
    parts: "Parts", answers: BuildAnswers, *, live: LiveEndpoints, waiting: Waiting, requests: "Requests"
) -> "ASGIApp":
    from asu_builder.http.routes import create_router  # with Starlette, and all handlers

    return create_router(parts, answers, live=live, waiting=waiting, requests=requests)


def _load_streams(parts: "Parts", reading: Threads, answers: BuildAnswers) -> "LiveStreams":
    from asu_builder.http.api.streams import LiveStreams  # most starts need none of it

    # A watcher that has seen the end of a build polls it next, and must not be told what was true before.
    return LiveStreams(
        parts.live, reading, callers=parts.callers, limits=parts.watch_limits, on_end=answers.note_end
    )


class MonitoringApp:
    """Answers `/health` and `/metrics` and nothing else, for a process whose business is to build."""

    def __init__(self, parts: "Parts") -> None:
        self._callers = parts.callers
        self._requests: Requests = Counter()
        threads = Threads(1, name="web-read")

        @contextlib.asynccontextmanager
        async def life() -> AsyncIterator[None]:
            parts.start()
            try:
                yield
            finally:
                await threads.run(parts.stop)
                threads.close()

        def load() -> "ASGIApp":
            from asu_builder.http.routes import create_monitoring_router  # with Starlette

            return create_monitoring_router(parts, threads, requests=self._requests)

        self._router = LateRouter(Late(load), threads, life)

    def door(self, limits: "Settings") -> Door:
        """What the server asks about connections and requests to this application."""
        return Door(limits, counted_as=self._callers.counted_as, large_bodies=lambda path: False)

    def end_streams(self) -> None:
        """For the server when it stops: no answer of this application lasts."""

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """One request, or the server's start and end."""
        if scope["type"] == "websocket":  # there is nothing to be watched here
            await receive()
            await send({"type": "websocket.close"})
            return

        async def counting(message: "Message") -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in MONITORED else "unknown"
                self._requests[scope["method"], path, message["status"]] += 1
            await send(message)

        with contextlib.suppress(ClientGone):
            await self._router(scope, receive, counting)
